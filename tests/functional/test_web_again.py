"""Deciding again over HTTP, and the journal that tells of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests import releases
from tests.databases import run
from tests.functional.serving import REPAIRS, RULES, TICKET, Site

from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Cuts, Knobs
from tiebreak.store.database import Database
from tiebreak.workflows import versions

BASE = "/v1/workflows/repairs"
WHY = {"reason": "stricter rules"}
STRICT = REPAIRS.model_copy(
    update={"knobs": Knobs(points=Cuts(medium=5, high=10, critical=40), audit_share=0)}
)


async def _install(site: Site) -> str:
    db = await Database.open(site.urls.app, pool_size=2)
    lane = await Lane.open(db, "tests", site.keyring)
    await versions.load(lane, STRICT, RULES, author="ann", reason="stricter")
    parts = PolicyParts(STRICT.name, STRICT.version, RULES.version)
    await releases.put(db, lane, site.keyring, parts)
    await db.close()
    return parts.hash


def install(site: Site) -> str:
    """Put stricter rules into production and wait until they are served; the policy's hash."""
    policy_hash, client = run(_install(site)), site.client()
    while client.get(BASE).json()["production"]["policy_hash"] != policy_hash:
        pass
    return policy_hash


def decide(client: httpx.Client, ticket_id: str, **fields: Any) -> dict[str, Any]:
    ticket = {"ticket_id": ticket_id, "fields": {**TICKET, "cost": 5000, **fields}}
    response = client.post(f"{BASE}/decisions", json=ticket)
    assert response.status_code == 200, response.text
    return response.json()


def path(ticket_id: str, revision: object = 1) -> str:
    return f"{BASE}/tickets/{quote(ticket_id, safe='')}/revisions/{revision}/decisions"


@pytest.mark.parametrize("role", [Role.LEAD, Role.ML_ENGINEER, Role.ADMIN])
def test_a_decision_is_appended_and_reads_everywhere(site: Site, role: Role) -> None:
    sender, lead = site.client(), site.client(role)
    ticket_id = "a/revisions/1/decisions"  # whatever its id
    first = decide(sender, ticket_id)
    assert lead.post(path(ticket_id), json=WHY).json() == first
    policy_hash = install(site)
    again = lead.post(path(ticket_id), json=WHY)
    assert again.status_code == 200, again.text
    second = again.json()
    assert (second["ordinal"], second["band"]) == (2, "critical")
    assert second["policy_hash"] == policy_hash
    assert lead.post(path(ticket_id), json=WHY).json() == second
    assert sender.get(f"/v1/decisions/{second['decision_id']}").json() == second
    history = sender.get(f"{BASE}/tickets/{quote(ticket_id, safe='')}").json()
    assert [d["decision_id"] for d in history["decisions"]] == [
        first["decision_id"],
        second["decision_id"],
    ]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = sender.get(f"{BASE}/decisions", params={"limit": 1, **cursor}).json()
        found += [item["decision_id"] for item in page["decisions"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(found) == sorted([first["decision_id"], second["decision_id"]])
    assert decide(sender, ticket_id)["decision_id"] == first["decision_id"]


def test_what_is_unknown_is_not_found(site: Site) -> None:
    lead = site.client(Role.LEAD)
    decide(site.client(), "t")
    for where in (
        path("nobody"),
        path("t", 2),
        path("t", 0),
        path("t", 2**31),
        path("t", "9" * 5000),
    ):
        response = lead.post(where, json=WHY)
        assert (response.status_code, response.json()["code"]) == (404, "unknown_revision")
    assert lead.post(path("t", "x"), json=WHY).json()["code"] == "unknown_revision"
    other = path("t").replace("repairs", "nothing")
    assert lead.post(other, json=WHY).json()["code"] == "not_in_production"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "required"),
        ({"reason": " "}, "required"),
        ({"reason": 5}, "required"),
        ({"reason": "x" * 501}, "too_long"),
        ({"reason": "x", "why": "y"}, "unknown_field"),
    ],
)
def test_wrong_bodies_are_named(site: Site, body: dict[str, Any], code: str) -> None:
    decide(site.client(), "t")
    response = site.client(Role.LEAD).post(path("t"), json=body)
    assert response.status_code == 422, response.text
    assert [item["code"] for item in response.json()["problems"]] == [code]
    response = site.client(Role.LEAD).post(
        path("t"), content=b"{", headers={"content-type": "application/json"}
    )
    assert response.status_code == 400


def pages(client: httpx.Client, limit: int, **filters: Any) -> list[list[dict[str, Any]]]:
    """The entries of each page of the journal, followed to the last."""
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        response = client.get("/v1/audit", params={"limit": limit, **filters, **cursor})
        assert response.status_code == 200, response.text
        page = response.json()
        found.append(page["entries"])
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_the_journal_is_paged_and_narrowed(site: Site) -> None:
    decide(site.client(), "t")
    install(site)
    lead = site.client(Role.LEAD)
    lead.post(path("t"), json=WHY)
    auditor = site.client(Role.AUDITOR)
    (everything,) = pages(auditor, 500)
    assert [entry["at"] for entry in everything] == sorted(
        (entry["at"] for entry in everything), reverse=True
    )
    newest = everything[0]
    assert (newest["action"], newest["subject"]) == ("ticket.decided_again", "repairs/t")
    assert newest["detail"]["reason"] == WHY["reason"]
    assert newest["actor"].startswith("ann/")
    for limit in (1, 3, len(everything)):
        found = pages(auditor, limit)
        assert [entry for page in found for entry in page] == everything
        assert all(len(page) == limit for page in found[:-1])

    def listed(**filters: Any) -> list[dict[str, Any]]:
        return [entry for page in pages(auditor, 4, **filters) for entry in page]

    assert listed(action="ticket.decided_again") == [newest]
    assert listed(actor=newest["actor"]) == [newest]
    assert newest in listed(actor="ann")
    assert {e["actor"].partition("/")[0] for e in listed(actor="ann")} == {"ann"}
    assert listed(actor="an") == listed(actor="a%") == listed(actor="ann_") == []
    assert listed(**{"from": newest["at"]}) == [newest]
    assert listed(to=newest["at"]) == everything[1:]
    assert listed(action="nothing") == []


@pytest.mark.parametrize(
    "query", ["from=2026-01-01", "cursor=abc", "limit=0", "limit=501", "actr=ann", "actor=%00"]
)
def test_wrong_filters_of_the_journal_are_named(site: Site, query: str) -> None:
    response = site.client(Role.ADMIN).get(f"/v1/audit?{query}")
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
