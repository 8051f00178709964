"""Releases over HTTP: who may do what, and each step of the way into production and back."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import httpx
import pytest
from tests import releases as ways
from tests.databases import execute, run
from tests.functional.serving import REPAIRS, RULES, Site

from tiebreak.access.acts import ACCESS
from tiebreak.access.keys import create_key
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Knobs
from tiebreak.release import releases
from tiebreak.release.releases import Office
from tiebreak.release.states import Kind, Stage
from tiebreak.store.database import Database
from tiebreak.workflows import versions

BASE = "/v1/releases"
PRODUCTION = f"{BASE}/production/repairs"
WHY = {"reason": "test"}
UNCHANGED = {"before": 0, "after": 0}
FIGURES = {
    "tickets": 10,
    "flips": 0,
    "missed": UNCHANGED,
    "needless_reviews": UNCHANGED,
    "reviewer_hours": UNCHANGED,
}
WINDOW = {"since": "2026-01-01T00:00:00+00:00", "until": "2026-02-01T00:00:00+00:00"}
NOBODYS = "4f0f2a68-6d3c-4a4e-9f3c-0d6f6a1c7b21"


def within(site: Site, work: Any) -> Any:
    """Run `work` in an office on the site's database."""

    async def opened() -> Any:
        db = await Database.open(site.urls.app, pool_size=2)
        try:
            lane = await Lane.open(db, "tests", site.keyring)
            return await work(ways.office_of(db, lane, site.keyring))
        finally:
            await db.close()

    made: Coroutine[Any, Any, Any] = opened()
    return run(made)


def client(site: Site, person: str, role: Role) -> httpx.Client:
    """A client of this person, who has this role alone."""

    async def work(office: Office) -> str:
        roles = frozenset({role})
        return str(
            await create_key(
                office.lane, person=person, roles=roles, actor="tests", expires_at=None
            )
        )

    headers = {"Authorization": f"Bearer {within(site, work)}"}
    made = httpx.Client(base_url=site.url, headers=headers, timeout=30)
    site.clients.append(made)
    return made


def backtest(site: Site, share: float) -> Backtest:
    """The backtest of a policy whose versions are stored."""

    async def work(office: Office) -> Backtest:
        changed = REPAIRS.model_copy(update={"knobs": Knobs(audit_share=share)})
        await versions.load(office.lane, changed, RULES, author="ann", reason="test")
        parts = PolicyParts(changed.name, changed.version, RULES.version)
        made = await ways.backtest_of(office, parts, figures=FIGURES, window=WINDOW)
        return Evidence.of(site.settings).put(made.evidence, made.run)

    return within(site, work)


def tried(site: Site, release_id: str) -> None:
    """Let a release go through shadow and its gates."""

    async def work(office: Office) -> None:
        release = await releases.find(office.db, release_id)
        await ways.tell(office, release, Kind.SHADOW_STARTED)
        await ways.gated(office, release, Stage.PROMOTION)

    within(site, work)


def ok(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def test_a_release_goes_its_way_and_production_goes_back(site: Site) -> None:
    ann = client(site, "ann", Role.ML_ENGINEER)
    bob = client(site, "bob", Role.APPROVER)
    made = backtest(site, 0.5)
    release = ok(ann.post(BASE, json={"backtest": made.id[:12], **WHY}))
    assert (release["author"], release["state"]) == ("ann", "draft")
    way = f"{BASE}/{release['release_id']}"
    assert ok(ann.get(BASE, params={"workflow": "repairs"}))["releases"] == [release]
    for asked in ({"workflow": "other"}, {"state": "shadow"}, {"author": "bob"}):
        assert ok(ann.get(BASE, params=asked))["releases"] == []
    approval = {"stage": "promotion", "note": "fine", "hours": 2}
    refused(bob.post(f"{way}/approve", json=approval), 409, "not_gated")
    tried(site, release["release_id"])
    own = client(site, "ann", Role.APPROVER)
    refused(own.post(f"{way}/approve", json=approval), 403, "four_eyes")
    refused(ann.post(f"{way}/promote", json=WHY), 409, "not_approved")
    dry = ok(bob.post(f"{way}/approve", json={**approval, "dry_run": True}))
    assert (dry["dry_run"], ok(bob.get(way))["approvals"]) == (True, [])
    assert ok(bob.post(f"{way}/approve", json=approval))["approver"] == "bob"
    for step in ("promote", "withdraw"):
        assert ok(ann.post(f"{way}/{step}", json={**WHY, "dry_run": True}))["dry_run"] is True
        assert ok(ann.get(way))["state"] == "shadow"
    record = ok(ann.post(f"{way}/promote", json=WHY))
    assert record["dry_run"] is False
    assert (record["seq"], record["author"], record["approver"]) == (2, "ann", "bob")
    shown = ok(bob.get(way))
    assert (shown["state"], shown["events"][-1]["kind"]) == ("production", "promoted")

    overview = ok(ann.get(f"{BASE}/production"))
    assert [each["policy"] for each in overview["production"]] == [release["policy_hash"]]
    history = ok(ann.get(f"{BASE}/history", params={"workflow": "repairs", "limit": 2}))
    assert history["entries"][0]["action"] == "production.promoted"
    rest = {"workflow": "repairs", "cursor": history["next_cursor"], "limit": 500}
    assert ok(ann.get(f"{BASE}/history", params=rest))["entries"][-1]["action"] == (
        "release.installed"
    )
    first = made.evidence["baseline"]["production"]
    back = {"policy_hash": first, **WHY}
    refused(ann.post(f"{PRODUCTION}/rollback", json=back), 401, "unauthenticated")
    for second, status, code in ((ann, 403, "role_missing"), (own, 403, "four_eyes")):
        headers = {"X-Approval": second.headers["Authorization"]}
        refused(ann.post(f"{PRODUCTION}/rollback", json=back, headers=headers), status, code)
    headers = {"X-Approval": bob.headers["Authorization"]}
    dry = ann.post(f"{PRODUCTION}/rollback", json={**back, "dry_run": True}, headers=headers)
    assert (ok(dry)["dry_run"], ok(dry)["policy_hash"]) == (True, first)
    assert ok(ann.get(f"{BASE}/production"))["production"][0]["seq"] == 2
    rolled = ok(ann.post(f"{PRODUCTION}/rollback", json=back, headers=headers))
    assert (rolled["kind"], rolled["approver"], rolled["policy_hash"]) == ("rollback", "bob", first)


def test_production_moves_under_a_release(site: Site) -> None:
    ann = client(site, "ann", Role.ML_ENGINEER)
    made, other = backtest(site, 0.5), backtest(site, 0.25)
    one = ok(ann.post(BASE, json={"backtest": made.id, **WHY}))
    two = ok(ann.post(BASE, json={"backtest": other.id, **WHY}))
    page = ok(ann.get(BASE, params={"limit": 1}))
    assert [each["release_id"] for each in page["releases"]] == [two["release_id"]]
    page = ok(ann.get(BASE, params={"limit": 1, "cursor": page["next_cursor"]}))
    assert [each["release_id"] for each in page["releases"]] == [one["release_id"]]
    assert page["next_cursor"] is None
    tried(site, two["release_id"])
    bob = client(site, "bob", Role.APPROVER)
    ok(bob.post(f"{BASE}/{two['release_id']}/approve", json={"stage": "promotion"}))
    ok(ann.post(f"{BASE}/{two['release_id']}/promote", json=WHY))
    assert not ok(ann.get(f"{BASE}/{one['release_id']}"))["is_current"]
    path = f"{BASE}/{one['release_id']}/rebase"
    refused(ann.post(path, json={"backtest": made.id, **WHY}), 409, "backtest_of_another")
    new = ok(ann.post(path, json={"backtest": backtest(site, 0.5).id, **WHY}))
    assert new["policy_hash"] == one["policy_hash"]
    withdrawn = ok(ann.post(f"{BASE}/{new['release_id']}/withdraw", json=WHY))
    assert withdrawn["state"] == "withdrawn"
    gone = ann.post(f"{BASE}/{new['release_id']}/withdraw", json=WHY)
    refused(gone, 409, "not_in_this_state")


def test_a_demotion_over_http_and_a_late_signature(site: Site) -> None:
    lead = client(site, "cat", Role.LEAD)
    refused(lead.post(f"{PRODUCTION}/demote", json=WHY), 409, "nothing_before")
    refused(lead.post(f"{PRODUCTION}x/demote", json=WHY), 404, "unknown_workflow")
    ann, bob = client(site, "ann", Role.ML_ENGINEER), client(site, "bob", Role.APPROVER)
    release = ok(ann.post(BASE, json={"backtest": backtest(site, 0.5).id, **WHY}))
    tried(site, release["release_id"])
    ok(bob.post(f"{BASE}/{release['release_id']}/approve", json={"stage": "promotion"}))
    ok(ann.post(f"{BASE}/{release['release_id']}/promote", json=WHY))
    stale = {"seq": 1, **WHY}
    refused(lead.post(f"{PRODUCTION}/demote", json=stale), 409, "production_moved")
    assert ok(lead.post(f"{PRODUCTION}/demote", json={"dry_run": True, **WHY}))["dry_run"] is True
    record = ok(lead.post(f"{PRODUCTION}/demote", json={"to": "previous", **WHY}))
    assert (record["kind"], record["author"], record["approver"]) == ("demote", "cat", None)
    assert lead.get("/readyz").json()["warnings"] == []
    late = "UPDATE release_records SET created_at = created_at - interval '25 hours'"
    replica = "SET session_replication_role = replica"
    run(execute(site.urls.admin, replica, f"{late} WHERE kind = 'demote'"))
    ready = lead.get("/readyz")
    assert ready.status_code == 200
    assert [each["code"] for each in ready.json()["warnings"]] == ["countersignature_overdue"]
    assert "\ntiebreak_countersignatures_overdue 1.0\n" in lead.get("/metrics").text
    signed = {"seq": record["seq"], "note": "right so"}
    cat = client(site, "cat", Role.APPROVER)
    refused(cat.post(f"{PRODUCTION}/countersign", json=signed), 403, "own_demotion")
    ok(bob.post(f"{PRODUCTION}/countersign", json={**signed, "dry_run": True}))
    ok(bob.post(f"{PRODUCTION}/countersign", json=signed))
    refused(bob.post(f"{PRODUCTION}/countersign", json=signed), 409, "already_countersigned")
    assert lead.get("/readyz").json()["warnings"] == []
    assert "\ntiebreak_countersignatures_overdue 0.0\n" in lead.get("/metrics").text


@pytest.mark.parametrize("role", Role)
def test_only_the_roles_of_a_step_take_it(site: Site, role: Role) -> None:
    who = site.client(role)
    paths = {
        "list_releases": ("GET", BASE),
        "get_production": ("GET", f"{BASE}/production"),
        "list_release_history": ("GET", f"{BASE}/history"),
        "get_release": ("GET", f"{BASE}/{NOBODYS}"),
        "propose_release": ("POST", BASE),
        **{
            f"{step}_release": ("POST", f"{BASE}/{NOBODYS}/{step}")
            for step in ("rebase", "withdraw", "approve", "promote")
        },
        "rollback_production": ("POST", f"{PRODUCTION}/rollback"),
        "demote_production": ("POST", f"{PRODUCTION}/demote"),
        "countersign_demotion": ("POST", f"{PRODUCTION}/countersign"),
    }
    for name, (method, path) in paths.items():
        body = {"x": 1} if method == "POST" else None
        response = who.request(method, path, json=body)
        is_refused = response.status_code == 403 and response.json()["code"] == "role_missing"
        assert is_refused == (role not in ACCESS[name]), (name, response.text)


def test_what_a_body_lacks_is_told_at_once(site: Site) -> None:
    ann = client(site, "ann", Role.ML_ENGINEER)
    response = ann.post(BASE, json={"backtest": "zz", "reason": " ", "resaon": "x"})
    assert response.status_code == 422
    assert {each["where"] for each in response.json()["problems"]} == {
        *("backtest", "reason", "resaon")
    }
    assert any("reason" in each["hint"] for each in response.json()["problems"])
    assert (
        ann.post(BASE, content=b"{", headers={"content-type": "application/json"}).status_code
        == 400
    )
    refused(ann.post(BASE, json={"backtest": "0" * 12, **WHY}), 404, "no_such_backtest")
    refused(ann.get(f"{BASE}/nonsense"), 404, "no_such_release")
