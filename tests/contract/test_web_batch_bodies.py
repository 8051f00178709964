"""Bodies of many tickets that nobody would send: no server error, each line answered as described.

Schemathesis makes up texts, which are hardly ever tables; these bodies begin as tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from tests.contract import bodies
from tests.contract.bodies import Body
from tests.contract.descriptions import Checker, Json
from tests.functional.serving import Site

SEED = 20_260_302
PATH = "/v1/workflows/repairs/decisions:batch"
AFTER = 3  # tickets that are sent when all is over
PIECE_BYTES = 97  # of a body that comes in pieces


@pytest.mark.parametrize(
    "count", [3, pytest.param(300, marks=[pytest.mark.full, pytest.mark.timeout(1_800)])]
)
def test_no_body_breaks_the_server_or_its_promises(
    site: Site, description: Json, count: int
) -> None:
    checker, client = Checker(description), site.client()
    seen: set[int] = set()
    for kind in bodies.KINDS:
        for body in bodies.bodies(kind, SEED, count):
            seen |= _statuses(checker, body, _send(client, body))
    for kind in (bodies.LINES, bodies.CSV):  # no reader of tables is left taken
        after = _send(client, bodies.sound(kind, kind, AFTER))
        assert [line["status"] for line in _lines(after)] == [200] * AFTER
    assert {200, 415, 422} <= seen


def _send(client: httpx.Client, body: Body) -> httpx.Response:
    """The answer to the body as a whole or, when its length is odd, in pieces."""
    content = _pieces(body.content) if len(body.content) % 2 else body.content
    return client.post(PATH, content=content, headers={"content-type": body.content_type})


def _pieces(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), PIECE_BYTES):
        yield content[start : start + PIECE_BYTES]


def _statuses(checker: Checker, body: Body, response: httpx.Response) -> set[int]:
    """The statuses of the answer and its lines, all of which are as described and none a 5xx."""
    assert response.status_code < 500, (body.told, response.text)
    if response.status_code != 200:
        assert (response.status_code, body.content_type in bodies.NOT_TAKEN) == (415, True)
        checker.check("decide_batch", response)
        return {response.status_code}
    assert body.content_type not in bodies.NOT_TAKEN, body.told
    lines = _lines(response)
    for line in lines:
        checker.fits("urn:api#/components/schemas/BatchLine", line)
        assert line["status"] < 500, (body.told, line)
        told = line["decision"] if line["status"] == 200 else line["error"]
        assert len(line) == len(("line", "status", "decision or error")), line
        assert told.get("status") in (None, line["status"]), line
    assert [line["line"] for line in lines] == _numbers(body, len(lines)), body.told
    return {200, *(line["status"] for line in lines)}


def _lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == bodies.LINES, response.text
    return [orjson.loads(line) for line in response.content.splitlines()]


def _numbers(body: Body, count: int) -> list[int]:
    """The lines that are answered: of NDJSON those that are not blank, of a table one by one."""
    if body.content_type != bodies.LINES:
        return list(range(1, count + 1))
    lines = zip(itertools.count(1), body.content.split(b"\n"), strict=False)
    return [number for number, line in lines if line.strip()]
