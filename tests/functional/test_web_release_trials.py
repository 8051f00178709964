"""Shadow, gates and canary over HTTP: the same steps as the commands, by the same roles."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests import releases as ways
from tests.functional.serving import Site
from tests.functional.test_web_releases import (
    BASE,
    NOBODYS,
    WHY,
    backtest,
    client,
    ok,
    refused,
    within,
)

from tiebreak.access.acts import ACCESS
from tiebreak.access.roles import Role
from tiebreak.release import releases
from tiebreak.release.releases import Office
from tiebreak.release.states import Stage

STEPS = {
    "evaluate_gates": "gates",
    "start_shadow": "shadow/start",
    "stop_shadow": "shadow/stop",
    "start_canary": "canary/start",
    "step_canary": "canary/step",
    "hold_canary": "canary/hold",
    "stop_canary": "canary/stop",
}
RUBBISH: dict[str, list[Any]] = {
    "shadow/start": [
        *({"share": share} for share in (0, -0.5, 1.5, "1", None, True, [1])),
        *({"since": since} for since in ("2026-01-31", "yesterday", 1_700_000_000, "")),
        {"percent": 5},
    ],
    "shadow/stop": [{}, {"reason": " "}, {"reason": "a\0"}, {"reason": None}, {"resaon": "x"}],
    "canary/start": [*({"percent": percent} for percent in (0, 101, 2.5, "5", True, [5]))],
    "canary/step": [{"percent": -1}, {"share": 0.5}, {"percent": 10**30}, {"early": " "}],
    "canary/hold": [{}, {"reason": ""}, {"reason": "x" * 100_000}],
    "canary/stop": [{}, {"reason": 1}, {"reason": "why", "guard": "missed"}],
    "gates": [{"stage": "production"}, {"stage": 1}, {"known_by": "2026-01-31"}, {"since": "x"}],
}


def proposed(site: Site, sender: httpx.Client) -> str:
    """The address of a new release."""
    made = backtest(site, 0.5)
    return f"{BASE}/{ok(sender.post(BASE, json={'backtest': made.id, **WHY}))['release_id']}"


def gated(site: Site, release_id: str) -> None:
    """Let the gates before a canary pass."""

    async def work(office: Office) -> None:
        await ways.gated(office, await releases.find(office.db, release_id), Stage.CANARY)

    within(site, work)


def test_a_candidate_goes_through_shadow_gates_and_canary(site: Site) -> None:
    ann, bob = client(site, "ann", Role.ML_ENGINEER), client(site, "bob", Role.APPROVER)
    lead = client(site, "cat", Role.LEAD)
    way = proposed(site, ann)
    refused(ann.post(f"{way}/gates", json={}), 409, "not_in_this_state")
    refused(ann.post(f"{way}/canary/start", json={}), 409, "not_in_this_state")
    told = ok(ann.post(f"{way}/shadow/start", json={"share": 0.5}))
    assert (told["state"], told["share"], told["scored"]) == ("shadow", 0.5, 0)
    refused(ann.post(f"{way}/shadow/start", json={}), 409, "not_in_this_state")
    assert ok(ann.post(f"{way}/shadow/stop", json=WHY))["state"] == "stopped"
    since = "2026-01-31T00:00:00+01:00"
    told = ok(ann.post(f"{way}/shadow/start", json={"since": since}))
    assert (told, told["share"]) == (ok(bob.get(f"{way}/shadow")), 1.0)

    asked = ok(bob.post(f"{way}/gates", json={"stage": "canary"}))
    verdicts = {gate["gate"]: gate["verdict"] for gate in asked["results"]["gates"]}
    assert (asked["is_passed"], verdicts["current"], verdicts["volume"]) == (
        *(False, "pass", "no evidence"),
    )
    early = {"stage": "canary", "known_by": "2020-01-01T00:00:00Z"}
    assert ok(bob.post(f"{way}/gates", json=early))["results"]["known_by"].startswith("2020-01-01")
    asked = ok(bob.post(f"{way}/gates", json={"stage": "canary"}))
    kept = ok(ann.get(f"{way}/gates"))
    assert (kept["canary"]["evaluation_id"], kept["promotion"]) == (asked["evaluation_id"], None)
    assert ok(ann.get(way))["evaluations"] == {"canary": kept["canary"]}
    assert ok(ann.post(f"{way}/gates", json={}))["stage"] == "promotion"

    refused(bob.post(f"{way}/approve", json={"stage": "canary"}), 409, "not_gated")
    refused(ann.post(f"{way}/canary/start", json={}), 409, "not_approved")
    gated(site, way.rpartition("/")[2])
    ok(bob.post(f"{way}/approve", json={"stage": "canary"}))
    own = client(site, "bob", Role.ML_ENGINEER)
    refused(own.post(f"{way}/canary/start", json={}), 409, "not_approved")
    told = ok(ann.post(f"{way}/canary/start", json={}))
    assert (told["state"], told["percent"], told["tickets"]) == ("canary", 5, 0)
    refused(ann.post(f"{way}/canary/step", json={}), 409, "step_not_over")
    early = {"percent": None, "early": "a test"}
    assert ok(ann.post(f"{way}/canary/step", json=early))["percent"] == 25
    assert ok(lead.post(f"{way}/canary/hold", json=WHY))["state"] == "held"
    told = ok(ann.post(f"{way}/canary/step", json={}))
    assert (told["state"], told["percent"], told["tickets_left"]) == ("canary", 25, 500)
    assert 23.9 < told["hours_left"] <= 24
    early["percent"] = 50.0
    assert ok(ann.post(f"{way}/canary/step", json=early))["percent"] == 50
    refused(ann.post(f"{way}/shadow/stop", json=WHY), 409, "not_in_this_state")
    told = ok(bob.post(f"{way}/canary/stop", json=WHY))
    assert (told["state"], told["percent"]) == ("stopped", 0)
    assert told == ok(ann.get(f"{way}/canary"))


def test_each_step_stands_in_the_journal_with_who_took_it_and_why(site: Site) -> None:
    ann, bob = client(site, "ann", Role.ML_ENGINEER), client(site, "bob", Role.APPROVER)
    way = proposed(site, ann)
    ok(ann.post(f"{way}/shadow/start", json={"share": 0.5}))
    ok(ann.post(f"{way}/gates", json={"stage": "promotion"}))
    gated(site, way.rpartition("/")[2])
    ok(bob.post(f"{way}/approve", json={"stage": "canary"}))
    ok(ann.post(f"{way}/canary/start", json={"percent": 5}))
    ok(ann.post(f"{way}/canary/hold", json={"reason": "over the weekend"}))
    ok(bob.post(f"{way}/canary/stop", json={"reason": "odd bands"}))
    entries = ok(ann.get(f"{BASE}/history", params={"workflow": "repairs"}))["entries"]
    told = [(each["action"].removeprefix("release."), each["actor"]) for each in entries]
    assert told[:9] == [
        ("canary_rolled_back", "bob"),
        ("canary_held", "ann"),
        ("canary_started", "ann"),
        ("approved", "bob"),
        ("gated", "gates"),
        ("gated", "ann"),
        ("shadow_started", "ann"),
        ("proposed", "ann"),
        ("installed", "ann"),
    ]
    details = [each["detail"] for each in entries]
    assert [detail.get("reason") for detail in details[:2]] == ["odd bands", "over the weekend"]
    assert (details[2]["percent"], details[2]["approver"]) == (5, "bob")
    assert (details[5]["stage"], details[5]["is_passed"]) == ("promotion", False)
    assert details[6]["share"] == 0.5


@pytest.mark.parametrize("role", Role)
def test_only_the_roles_of_a_step_take_it(site: Site, role: Role) -> None:
    who = site.client(role)
    asked = {name: who.post(f"{BASE}/{NOBODYS}/{step}", json={}) for name, step in STEPS.items()}
    asked |= {
        f"get_release_{each}": who.get(f"{BASE}/{NOBODYS}/{each}")
        for each in ("shadow", "canary", "gates")
    }
    for name, response in asked.items():
        is_refused = response.status_code == 403 and response.json()["code"] == "role_missing"
        assert is_refused == (role not in ACCESS[name]), (name, response.text)


def test_rubbish_is_refused_and_changes_nothing(site: Site) -> None:
    ann = client(site, "ann", Role.ML_ENGINEER)
    way = proposed(site, ann)
    before = ok(ann.get(way))
    for step, bodies in RUBBISH.items():
        path = f"{way}/{step}"
        for body in bodies:
            response = ann.post(path, json=body)
            assert response.status_code == 422, (step, body, response.text)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["problems"], (step, body)
        for content in (b"", b"{", b"[]", b"null", b"\xff", b'{"reason": NaN}'):
            headers = {"content-type": "application/json"}
            response = ann.post(path, content=content, headers=headers)
            assert response.status_code in (400, 422), (step, content, response.text)
        refused(ann.post(path, content=b"{}"), 415, "content_type_wrong")
        for release in (NOBODYS, "nonsense"):
            response = ann.post(f"{BASE}/{release}/{step}", json=_needs(step))
            refused(response, 404, "no_such_release")
    assert ok(ann.get(way)) == before


def _needs(step: str) -> dict[str, str]:
    """The least that a step takes."""
    return WHY if step.endswith(("stop", "hold")) else {}
