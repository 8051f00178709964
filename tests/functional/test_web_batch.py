"""Many tickets in one request: order, line errors, streaming, limits, and broken connections."""

from __future__ import annotations

import re
import socket
from typing import Any

import httpx
import orjson
from tests.functional.serving import TICKET, Site

from tiebreak.access.roles import Role

PATH = "/v1/workflows/repairs/decisions:batch"
LINES = {"content-type": "application/x-ndjson"}


def line(ticket_id: str, **fields: Any) -> bytes:
    return orjson.dumps({"ticket_id": ticket_id, "fields": {**TICKET, **fields}}) + b"\n"


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(text) for text in response.content.splitlines()]


def send(site: Site, content: bytes, **options: Any) -> list[dict[str, Any]]:
    return answers(site.client().post(PATH, content=content, headers=LINES, **options))


def listed(site: Site) -> int:
    return len(site.client().get("/v1/workflows/repairs/decisions?limit=500").json()["decisions"])


def test_answers_stand_in_the_order_of_the_lines(site: Site) -> None:
    found = send(site, b"".join(line(f"t{i}") for i in range(300)))
    assert [item["line"] for item in found] == list(range(1, 301))
    assert [item["decision"]["ticket_id"] for item in found] == [f"t{i}" for i in range(300)]
    assert {item["status"] for item in found} == {200}


def test_bad_lines_do_not_sink_the_good_ones(site: Site) -> None:
    lines = [
        line("good1"),
        b'{"ticket_id": "half\n',
        b'{"ticket_id": "\xff\xfe"}\n',
        b"\n",
        line("big", remarks="x" * 250_000),
        line("wrong", cost="x"),
        line("future", opened_at="2150-01-01T00:00:00Z"),
        b"null\n",
        line("good2").rstrip(b"\n"),
    ]
    found = send(site, b"".join(lines))
    assert [(item["line"], item["status"]) for item in found] == [
        (1, 200),
        (2, 400),
        (3, 400),
        (5, 413),
        (6, 422),
        (7, 422),
        (8, 422),
        (9, 200),
    ]
    assert found[4]["error"]["problems"][0]["where"] == "fields.cost"
    assert found[5]["error"]["code"] == "opened_in_future"
    assert listed(site) == 2


def test_an_empty_body_has_an_empty_answer(site: Site) -> None:
    assert send(site, b"") == []


def test_the_same_ticket_twice_in_a_batch_is_one_decision(site: Site) -> None:
    found = send(site, line("t") * 5)
    assert len({item["decision"]["decision_id"] for item in found}) == 1


def open_stream(site: Site) -> socket.socket:
    host, port = site.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.tokens[Role.SERVICE]}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def receive(connection: socket.socket, until: bytes) -> bytes:
    found = bytearray()
    while until not in found:
        part = connection.recv(65536)
        if not part:
            break
        found += part
    return bytes(found)


def test_the_first_answer_comes_before_the_last_line_is_sent(site: Site) -> None:
    with open_stream(site) as connection:
        connection.sendall(chunk(line("first")))
        assert b'"ticket_id":"first"' in receive(connection, b'"ticket_id":"first"')
        connection.sendall(chunk(line("second")) + b"0\r\n\r\n")
        assert b'"ticket_id":"second"' in receive(connection, b"0\r\n\r\n")


def test_a_line_cut_off_by_a_broken_connection_is_not_decided(site: Site) -> None:
    with open_stream(site) as connection:
        connection.sendall(chunk(line("whole") + line("cut").rstrip(b"\n")))
        receive(connection, b'"ticket_id":"whole"')
    assert site.client().post(PATH, content=line("after"), headers=LINES).status_code == 200
    assert listed(site) == 2


def test_a_client_that_reads_nothing_until_all_is_sent_is_not_blocked(site: Site) -> None:
    remarks = "x" * 20_000  # so that no buffer of the system holds all that is sent or answered
    count = 1200
    content = b"".join(line(f"t{i}", remarks=f"{remarks} flood") for i in range(count))
    with open_stream(site) as connection:
        connection.settimeout(100)
        connection.sendall(chunk(content) + b"0\r\n\r\n")
        found = receive(connection, b"\r\n0\r\n\r\n")
    whole = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", found)  # chunks end anywhere
    assert whole.count(b'"status":200') == count


def test_wrong_type_role_and_workflow_are_refused_before_any_line(site: Site) -> None:
    client = site.client()
    json = {"content-type": "application/json"}
    assert client.post(PATH, content=line("t"), headers=json).status_code == 415
    path = "/v1/workflows/nothing/decisions:batch"
    assert client.post(path, content=line("t"), headers=LINES).status_code == 404
    reviewer = site.client(Role.REVIEWER)
    assert reviewer.post(PATH, content=line("t"), headers=LINES).status_code == 403
    assert listed(site) == 0
