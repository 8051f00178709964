"""Deciding one ticket over HTTP: answers, retries, revisions, and every kind of bad input."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from tests.functional.serving import TICKET, Site, raw

from tiebreak.access.roles import Role

PATH = "/v1/workflows/repairs/decisions"


def body(ticket_id: str = "t1", **fields: Any) -> dict[str, Any]:
    return {"ticket_id": ticket_id, "fields": {**TICKET, **fields}}


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refused request, checked for what all of them share."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert told["code"] == code
    assert told["status"] == status
    assert told["request_id"] == response.headers["x-request-id"]
    return told


def test_a_ticket_is_decided_by_the_rules_that_fire(site: Site) -> None:
    answer = site.client().post(PATH, json=body(cost=2000, urgent=True)).json()
    assert (answer["band"], answer["route"]) == ("critical", "review")
    assert [fired["rule"] for fired in answer["rules"]["fired"]] == ["costly", "urgent"]
    assert answer["rules"]["fired"][0]["values"] == {"cost": 2000.0}
    assert answer["model"] == {"status": "absent"}


def test_the_same_content_again_is_the_same_decision(site: Site) -> None:
    client = site.client()
    first = client.post(PATH, json=body())
    assert first.json() == client.post(PATH, json=body()).json()


def test_other_content_is_the_next_revision_and_a_b_a_makes_three(site: Site) -> None:
    client = site.client()
    costs = (1, 2, 1)
    revisions = [client.post(PATH, json=body(cost=cost)).json()["revision"] for cost in costs]
    assert revisions == [1, 2, 3]


def test_a_revision_that_exists_with_other_content_is_a_conflict(site: Site) -> None:
    client = site.client()
    client.post(PATH, json=body(cost=1) | {"revision": 1})
    response = client.post(PATH, json=body(cost=2) | {"revision": 1})
    assert response.status_code == 409
    assert response.json()["title"] == "Conflict"


def test_many_at_once_are_each_decided_once(site: Site) -> None:
    client = site.client()

    def send(number: int) -> dict[str, Any]:
        response = client.post(PATH, json=body(f"t{number % 20}"))
        assert response.status_code == 200, response.text
        return response.json()

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(send, range(100)))
    assert len({answer["decision_id"] for answer in answers}) == 20
    assert {answer["revision"] for answer in answers} == {1}


@pytest.mark.parametrize(
    ("content", "status", "where", "code"),
    [
        (b"", 400, "", "not_json"),
        (b"{", 400, "", "not_json"),
        (b'{"ticket_id": "a", "fields": {"cost": NaN}}', 400, "", "not_json"),
        (b'{"ticket_id": "a", "fields": {"cost": 1e999}}', 400, "", "not_json"),
        (b'{"ticket_id": "\xff"}', 400, "", "invalid_utf8"),
        (b'{"ticket_id": "\\ud800", "fields": {}}', 400, "", "lone_surrogate"),
        (b"[" * 5000, 400, "", "too_deep"),
        (b"[]", 422, "", "not_an_object"),
        (b'{"ticket_id": "a", "ticket_id": "b", "fields": {}}', 422, "ticket_id", "duplicate_key"),
        (b'{"fields": {}}', 422, "ticket_id", "missing"),
        (b'{"ticket_id": "a"}', 422, "fields", "missing"),
        (b'{"ticket_id": "a\\n", "fields": {}}', 422, "ticket_id", "not_printable"),
    ],
)
def test_bodies_that_are_no_tickets(
    site: Site, content: bytes, status: int, where: str, code: str
) -> None:
    headers = {"content-type": "application/json"}
    response = site.client().post(PATH, content=content, headers=headers)
    told = problem(response, status, "body_malformed" if status == 400 else "invalid_input")
    assert (where, code) in [(item["where"], item["code"]) for item in told["problems"]]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"cost": "10"}, "fields.cost"),
        ({"cost": True}, "fields.cost"),
        ({"cost": -1}, "fields.cost"),
        ({"people": 1.5}, "fields.people"),
        ({"people": 2**63}, "fields.people"),
        ({"kind": "lamb"}, "fields.kind"),
        ({"opened_at": "2026-03-02T14:30:00"}, "fields.opened_at"),
        ({"opened_at": "yesterday"}, "fields.opened_at"),
        ({"opened_at": None}, "fields.opened_at"),
        ({"remarks": "x" * 100_001}, "fields.remarks"),
        ({"remarks": "a\x00b"}, "fields.remarks"),
        ({"marks": "one"}, "fields.marks"),
        ({"due_on": "2026-02-30"}, "fields.due_on"),
        ({"urgent": "yes"}, "fields.urgent"),
        ({"fixed_at": "2026-03-02T14:30:00Z"}, "fields.fixed_at"),
        ({"opend_at": "2026-03-02T14:30:00Z"}, "fields.opend_at"),
    ],
)
def test_wrong_fields_are_named(site: Site, fields: dict[str, Any], where: str) -> None:
    told = problem(site.client().post(PATH, json=body(**fields)), 422, "invalid_input")
    assert [item["where"] for item in told["problems"]] == [where]


def test_a_ticket_from_the_future_is_refused(site: Site) -> None:
    """Another clock or zone may be a day ahead of ours; other times may lie anywhere."""
    client, now = site.client(), datetime.now(UTC)
    soon, due = (now + timedelta(hours=23)).isoformat(), "2199-12-31"
    assert client.post(PATH, json=body(opened_at=soon, due_on=due)).status_code == 200
    for late in ("2150-01-01T00:00:00Z", (now + timedelta(hours=25)).isoformat()):
        told = problem(client.post(PATH, json=body(opened_at=late)), 422, "opened_in_future")
        assert told["fields"] == {"field": "opened_at"}
        assert told["hint"]
    history = client.get("/v1/workflows/repairs/tickets/t1").json()
    assert [each["revision"] for each in history["revisions"]] == [1]


def test_all_mistakes_come_at_once(site: Site) -> None:
    told = problem(
        site.client().post(PATH, json={"fields": {"cost": "x", "kind": 1, "kin": 2}}),
        422,
        "invalid_input",
    )
    assert {item["where"] for item in told["problems"]} == {
        "ticket_id",
        "fields.cost",
        "fields.kind",
        "fields.kin",
        "fields.opened_at",
    }


def test_a_body_over_the_limit_is_refused_by_its_length(site: Site) -> None:
    response = site.client().post(PATH, json=body(remarks="x" * 10_000_000))
    told = problem(response, 413, "body_too_large")
    assert told["fields"] == {"max_bytes": 200_000}


def test_a_body_over_the_limit_is_refused_without_a_length(site: Site) -> None:
    def parts() -> Any:
        for _ in range(50):
            yield b"x" * 10_000

    headers = {"content-type": "application/json"}
    try:
        response = site.client().post(PATH, content=parts(), headers=headers)
    except httpx.WriteError:  # the server may close before all is sent
        return
    problem(response, 413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/x-ndjson"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_content_types_are_refused(site: Site, headers: dict[str, str]) -> None:
    response = site.client().post(PATH, content=orjson.dumps(body()), headers=headers)
    problem(response, 415, "content_type_wrong")


def test_json_with_a_charset_is_taken(site: Site) -> None:
    headers = {"content-type": 'application/json; charset="UTF-8"'}
    response = site.client().post(PATH, content=orjson.dumps(body()), headers=headers)
    assert response.status_code == 200


def test_an_unknown_workflow_route_or_method_says_so(site: Site) -> None:
    client = site.client()
    response = client.post("/v1/workflows/nothing/decisions", json=body())
    problem(response, 404, "not_in_production")
    problem(client.get("/v1/nothing"), 404, "route_not_found")
    for path in (
        "/v1/nothing",
        "/v1/workflows/locate/tickets/%00",
        "/v1/decisions/zzz",
        "/docs/no",
    ):
        assert client.get(path).json()["hint"], path
    response = client.delete(PATH)
    problem(response, 405, "method_wrong")
    assert response.headers["allow"] == "GET, POST"


def test_half_a_body_is_not_decided_and_the_server_goes_on(site: Site) -> None:
    content = orjson.dumps(body("half"))
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.tokens[Role.SERVICE]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content) + 10}\r\n\r\n"
    )
    assert raw(site.url, head.encode() + content) == b""
    assert site.client().post(PATH, json=body("half")).json()["revision"] == 1
    listed = site.client().get(PATH).json()["decisions"]
    assert [item["ticket_id"] for item in listed] == ["half"]


def test_rubbish_on_the_wire_is_refused(site: Site) -> None:
    assert raw(site.url, b"\x16\x03\x01 no http\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert site.client().post(PATH, json=body()).status_code == 200


def test_an_answer_carries_an_id_and_no_server_name(site: Site) -> None:
    response = site.client().post(PATH, json=body())
    assert len(response.headers["x-request-id"]) == 16
    assert "server" not in response.headers
