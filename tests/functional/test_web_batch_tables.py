"""Tables in one request: the same answers as for lines, while they come, and within limits."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import httpx
import orjson
import polars as pl
import pytest
from tests.functional.serving import Site
from tests.functional.test_web_batch import PATH, chunk, listed, receive, send

from tiebreak.access.roles import Role
from tiebreak.web.api import decisions
from tiebreak.web.site import MOST_READERS

CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"


def frame(count: int = 40) -> pl.DataFrame:
    moment = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    return pl.DataFrame(
        {
            "ticket_id": [f"t{i}" for i in range(count)],
            "opened_at": [moment] * count,
            "kind": pl.Series(["leak", "lamp"] * (count // 2), dtype=pl.Categorical),
            "cost": [i * 50.25 for i in range(count)],
            "people": range(count),
            "remarks": ['a flood, "here"\n', None] * (count // 2),
            "due_on": [date(2026, 4, 1)] * count,
            "urgent": [i % 7 == 0 for i in range(count)],
            "not_ours": ["x"] * count,
        }
    )


def csv(table: pl.DataFrame) -> bytes:
    return table.write_csv().encode()


def arrow(table: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    table.write_ipc_stream(out)
    return out.getvalue()


def parquet(table: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    table.write_parquet(out)
    return out.getvalue()


FORMATS = {CSV: csv, ARROW: arrow, PARQUET: parquet}
each_format = pytest.mark.parametrize(("kind", "write"), FORMATS.items(), ids=FORMATS)
Write = Callable[[pl.DataFrame], bytes]


def post(site: Site, content: bytes, kind: str) -> httpx.Response:
    return site.client().post(PATH, content=content, headers={"content-type": kind})


def answers(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    return [orjson.loads(line) for line in response.content.splitlines()]


def as_lines(table: pl.DataFrame) -> bytes:
    fields = [
        {k: v for k, v in row.items() if k not in ("ticket_id", "not_ours")}
        for row in table.rows(named=True)
    ]
    ids = table["ticket_id"]
    lines = [{"ticket_id": i, "fields": f} for i, f in zip(ids, fields, strict=True)]
    return b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in lines)


def test_a_table_gets_the_decisions_that_its_lines_get(site: Site) -> None:
    table = frame()
    first = send(site, as_lines(table))
    assert {item["status"] for item in first} == {200}
    for kind, write in FORMATS.items():
        assert answers(post(site, write(table), kind)) == first, kind
    assert listed(site) == table.height


@each_format
def test_bad_rows_do_not_sink_the_good_ones(site: Site, kind: str, write: Write) -> None:
    table = frame(6).with_columns(
        cost=pl.Series([1.0, -1.0, 2.0, 3.0, 4.0, 5.0]),
        remarks=pl.Series([None, None, "x" * 100_001, "x" * 90_000, None, None]),
        ticket_id=pl.Series(["a", "b", "c", "d", None, "f"]),
    )
    found = answers(post(site, write(table), kind))
    assert [(item["line"], item["status"]) for item in found] == [
        (1, 200),
        (2, 422),
        (3, 422),
        (4, 200),
        (5, 422),
        (6, 200),
    ]
    assert found[1]["error"]["problems"][0]["where"] == "cost"


@each_format
def test_a_row_over_the_limit_of_a_ticket_is_too_large(site: Site, kind: str, write: Write) -> None:
    table = frame(2).with_columns(not_ours=pl.Series(["x" * 100_000, "x" * 100_000]))
    table = table.with_columns(also_not=pl.Series(["y" * 110_000, ""]))
    found = answers(post(site, write(table), kind))
    assert [item["status"] for item in found] == [413, 200]


@each_format
def test_a_body_cut_off_ends_with_a_clear_error(site: Site, kind: str, write: Write) -> None:
    whole = write(frame(20))
    found = answers(post(site, whole[: len(whole) * 2 // 3], kind))
    last = found[-1]
    assert last["status"] == 422
    assert last["error"]["detail"]
    if kind != CSV:  # a row of CSV that is cut off is that row's own mistake
        assert last["error"]["code"] == "file_unreadable"
        assert last["error"]["hint"]
    assert {item["status"] for item in found[:-1]} <= {200}


@pytest.mark.parametrize("kind", [ARROW, PARQUET])
def test_bytes_that_are_no_table_say_so(site: Site, kind: str) -> None:
    (only,) = answers(post(site, b"PAR1 or something else", kind))
    assert (only["line"], only["error"]["code"]) == (1, "file_unreadable")
    (only,) = answers(post(site, b"", kind))
    assert only["error"]["code"] == "file_unreadable"


def test_a_parquet_body_over_the_limit_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "PARQUET_BYTES", 1_000)
    response = post(site, parquet(frame(2_000)), PARQUET)
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
    assert response.json()["fields"]["max_bytes"] == 1_000
    assert listed(site) == 0


@pytest.mark.full
def test_a_bomb_ends_its_own_request_only(site: Site) -> None:
    out = io.BytesIO()
    pl.DataFrame({"ticket_id": ["x" * 4_000] * 100_000}).write_parquet(out)
    found = answers(post(site, out.getvalue(), PARQUET))
    assert "times its size" in found[-1]["error"]["detail"]
    assert {item["status"] for item in found} == {422}
    assert {item["status"] for item in answers(post(site, parquet(frame()), PARQUET))} == {200}


@pytest.mark.parametrize("kind", [CSV, ARROW])
def test_the_first_answers_come_before_the_last_row_is_sent(site: Site, kind: str) -> None:
    content = FORMATS[kind](frame(2))
    more = FORMATS[kind](frame(4).tail(2))
    rest = more[more.index(b"\n") + 1 :] if kind == CSV else batch_of(more)
    end = 0 if kind == CSV else 8
    with open_table(site, kind) as connection:
        connection.sendall(chunk(content[: len(content) - end]))
        assert b'"ticket_id":"t1"' in receive(connection, b'"ticket_id":"t1"')
        connection.sendall(chunk(rest) + b"0\r\n\r\n")
        assert b'"ticket_id":"t3"' in receive(connection, b"0\r\n\r\n")


def batch_of(stream: bytes) -> bytes:
    """A stream without its schema."""
    return stream[stream.index(b"\xff\xff\xff\xff", 8) :]


def open_table(site: Site, kind: str) -> socket.socket:
    host, port = site.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.tokens[Role.SERVICE]}\r\n"
        f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def test_a_row_cut_off_by_a_broken_connection_is_not_decided(site: Site) -> None:
    content = csv(frame(2).select("ticket_id", "opened_at", "kind"))
    with open_table(site, CSV) as connection:
        connection.sendall(chunk(content + content.splitlines()[-1].replace(b"t1", b"t9")))
        receive(connection, b'"ticket_id":"t1"')
    time.sleep(0.3)
    assert listed(site) == 2


def test_one_worker_reads_only_so_many_tables_at_once(site: Site) -> None:
    content = csv(frame(2))
    connections = [open_table(site, CSV) for _ in range(MOST_READERS)]
    try:
        for connection in connections:
            connection.sendall(chunk(content))
            receive(connection, b'"ticket_id":"t1"')
        refused = post(site, content, CSV)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 10
    while post(site, content, CSV).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_other_types_and_encodings_are_refused_with_what_is_taken(site: Site) -> None:
    response = post(site, b"", "application/vnd.ms-excel")
    assert response.status_code == 415
    assert all(kind in response.json()["hint"] for kind in FORMATS)
    assert post(site, b"", "text/csv; charset=latin-1").status_code == 415
