"""Reading over HTTP: decisions, histories and lists; and telling outcomes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.functional.serving import TICKET, Site

BASE = "/v1/workflows/repairs"


def decide(client: httpx.Client, ticket_id: str, **fields: Any) -> dict[str, Any]:
    ticket = {"ticket_id": ticket_id, "fields": {**TICKET, **fields}}
    response = client.post(f"{BASE}/decisions", json=ticket)
    assert response.status_code == 200, response.text
    return response.json()


def pages(client: httpx.Client, limit: int, **filters: Any) -> list[list[str]]:
    """The ids of the decisions of each page, followed to the last."""
    found: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        response = client.get(f"{BASE}/decisions", params={"limit": limit, **filters, **cursor})
        assert response.status_code == 200, response.text
        page = response.json()
        found.append([item["decision_id"] for item in page["decisions"]])
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_a_decision_reads_as_it_was_answered(site: Site) -> None:
    client = site.client()
    answer = decide(client, "t1", cost=5000)
    assert client.get(f"/v1/decisions/{answer['decision_id']}").json() == answer


def test_a_decision_without_a_model_has_no_explanation_of_one(site: Site) -> None:
    client = site.client()
    answer = decide(client, "t1")
    response = client.get(f"/v1/decisions/{answer['decision_id']}/explanation")
    assert (response.status_code, response.json()["code"]) == (404, "not_scored")


@pytest.mark.parametrize(
    ("decision_id", "status"),
    [
        ("019d0000-0000-7000-8000-000000000000", 404),
        ("019d0000-0000-4000-8000-000000000000", 422),
        ("ffffffff-ffff-7fff-bfff-ffffffffffff", 422),
        ("nonsense", 422),
        ("%00", 404),
    ],
)
def test_ids_of_no_decision(site: Site, decision_id: str, status: int) -> None:
    response = site.client().get(f"/v1/decisions/{decision_id}")
    assert response.status_code == status, response.text


@pytest.mark.parametrize("ticket_id", ["t/1", "a b?c#d", "Ünïcode-☂", "x/outcomes", "100%"])
def test_a_ticket_is_found_whatever_its_id(site: Site, ticket_id: str) -> None:
    client = site.client()
    decide(client, ticket_id)
    path = f"{BASE}/tickets/{quote(ticket_id, safe='')}"
    told = client.post(f"{path}/outcomes", json={"kind": "closed"})
    assert told.status_code == 201, told.text
    history = client.get(path).json()
    assert history["ticket_id"] == ticket_id
    assert [len(history[part]) for part in ("revisions", "decisions", "outcomes")] == [1, 1, 1]


def test_a_history_holds_all_revisions_decisions_and_outcomes(site: Site) -> None:
    client = site.client()
    answers = [decide(client, "t1", cost=cost) for cost in (1, 2000)]
    for body in (
        {"kind": "acted"},
        {"kind": "outcome", "fields": {"damage": True}, "given_at": "2026-03-02T10:00:00-05:00"},
    ):
        assert client.post(f"{BASE}/tickets/t1/outcomes", json=body).status_code == 201
    history = client.get(f"{BASE}/tickets/t1").json()
    assert [item["fields"]["cost"] for item in history["revisions"]] == [1.0, 2000.0]
    assert [item["decision_id"] for item in history["decisions"]] == [
        answer["decision_id"] for answer in answers
    ]
    assert [item["kind"] for item in history["outcomes"]] == ["acted", "outcome"]
    assert history["outcomes"][1]["fields"] == {"damage": True}
    assert history["outcomes"][1]["given_at"] == "2026-03-02T15:00:00Z"


def test_the_same_outcome_again_gets_the_same_receipt(site: Site) -> None:
    client = site.client()
    decide(client, "t1")
    body = {"kind": "outcome", "fields": {"damage": True}}
    first, again = (client.post(f"{BASE}/tickets/t1/outcomes", json=body) for _ in range(2))
    assert first.json() == again.json()
    assert first.json()["ordinal"] == 1


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, ["kind", "fields"]),
        ({"kind": "exploded"}, ["kind"]),
        ({"kind": "closed", "given_at": "2026-03-02T10:00:00"}, ["given_at"]),
        ({"kind": "closed", "given_at": 5}, ["given_at"]),
        ({"kind": "closed", "given_at": "0001-01-01T00:00:00+23:00"}, ["given_at"]),
        ({"kind": "closed", "felds": {}}, ["felds"]),
        ({"kind": "closed", "fields": []}, ["fields"]),
        ({"kind": "outcome", "fields": {"damage": "yes", "cost": 1}}, ["damage", "cost"]),
    ],
)
def test_wrong_outcomes_are_named(site: Site, body: dict[str, Any], where: list[str]) -> None:
    client = site.client()
    decide(client, "t1")
    response = client.post(f"{BASE}/tickets/t1/outcomes", json=body)
    assert response.status_code == 422, response.text
    named = [item["where"].removeprefix("fields.") for item in response.json()["problems"]]
    assert set(named) <= set(where)
    assert named


def test_outcomes_of_the_future_and_of_no_ticket_are_refused(site: Site) -> None:
    client = site.client()
    decide(client, "t1")
    future = {"kind": "closed", "given_at": "2199-01-01T00:00:00Z"}
    response = client.post(f"{BASE}/tickets/t1/outcomes", json=future)
    assert (response.status_code, response.json()["code"]) == (422, "outcome_in_future")
    assert client.post(f"{BASE}/tickets/t2/outcomes", json={"kind": "closed"}).status_code == 404
    assert client.post(f"{BASE}/tickets/%00/outcomes", json={"kind": "closed"}).status_code == 404


def test_pages_hold_every_decision_once_newest_first(site: Site) -> None:
    client = site.client()
    made = [decide(client, f"t{number}")["decision_id"] for number in range(23)]
    for limit in (1, 5, 22, 23, 24, 500):
        found = pages(client, limit)
        assert [key for page in found for key in page] == made[::-1]
        assert all(len(page) == limit for page in found[:-1])


def test_decisions_made_while_paging_do_not_shift_pages(site: Site) -> None:
    client = site.client()
    made = [decide(client, f"t{number}")["decision_id"] for number in range(6)]
    first = client.get(f"{BASE}/decisions", params={"limit": 3}).json()
    decide(client, "later")
    cursor = first["next_cursor"]
    second = client.get(f"{BASE}/decisions", params={"limit": 3, "cursor": cursor}).json()
    listed = first["decisions"] + second["decisions"]
    assert [item["decision_id"] for item in listed] == made[::-1]
    assert second["next_cursor"] is None


def test_filters_narrow_a_list(site: Site) -> None:
    client = site.client()
    low = decide(client, "low")
    high = decide(client, "high", cost=5000)
    tie = decide(client, "tie", remarks="a flood")
    urgent = decide(client, "urgent", urgent=True)
    everything = {answer["decision_id"] for answer in (low, high, tie, urgent)}

    def listed(**filters: Any) -> set[str]:
        return {key for page in pages(client, 2, **filters) for key in page}

    assert listed() == everything
    assert listed(band="critical") == {urgent["decision_id"]}
    assert listed(band="high") == {high["decision_id"]}
    assert listed(route="auto") == {low["decision_id"], high["decision_id"]}
    assert listed(tie=True) == {tie["decision_id"]}
    assert listed(policy=low["policy_hash"]) == everything
    assert listed(policy="0" * 64) == set()
    moment = tie["as_of"]
    assert listed(**{"from": moment}) == {tie["decision_id"], urgent["decision_id"]}
    assert listed(to=moment) == {low["decision_id"], high["decision_id"]}


@pytest.mark.parametrize(
    "query",
    [
        "band=huge",
        "route=x",
        "tie=perhaps",
        "policy=abc",
        "from=2026-01-01",
        "from=0.5",
        "to=1767225600",
        "from=2026-01-01T00:00:00",
        "cursor=abc",
        "limit=0",
        "limit=501",
        "limit=x",
        "bnad=low",
    ],
)
def test_wrong_filters_are_named(site: Site, query: str) -> None:
    response = site.client().get(f"{BASE}/decisions?{query}")
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_workflows_tell_what_is_in_production_and_what_they_take(site: Site) -> None:
    client = site.client()
    (listed,) = client.get("/v1/workflows").json()["workflows"]
    detail = client.get(BASE).json()
    versions = client.get(f"{BASE}/versions").json()["versions"]
    assert listed["workflow"] == "repairs"
    assert listed["newest_version"] == versions[0]
    assert listed["production"] == detail["production"]
    assert detail["production"]["model_status"] == "absent"
    assert "fixed_at" not in detail["ticket_schema"]["properties"]
    assert detail["outcome_schema"]["properties"].keys() == {"damage"}
    assert client.get("/v1/workflows/nothing").status_code == 404
    assert client.get("/v1/workflows/%00").status_code == 404
