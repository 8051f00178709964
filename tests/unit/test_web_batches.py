"""The spool between a batch's decisions and a client that takes its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from tiebreak.decisions.batcher import Overloaded
from tiebreak.web import batches
from tiebreak.web.batches import BatchResponse, Entry, Spool
from tiebreak.web.deadlines import Awaited


async def drained(spool: Spool) -> bytes:
    parts: list[bytes] = []
    while part := await spool.read():
        parts.append(part)
    return b"".join(parts)


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=20), st.lists(st.booleans()))
async def test_bytes_come_out_as_they_went_in(parts: list[bytes], reads: list[bool]) -> None:
    spool, taken = Spool(), b""
    for i, part in enumerate(parts):
        await spool.write(part)
        if i < len(reads) and reads[i]:
            taken += await spool.read()
    await spool.end()
    assert taken + await drained(spool) == b"".join(parts)
    spool.close()


async def test_more_than_memory_goes_to_a_file() -> None:
    spool = Spool()
    part = bytes(range(256)) * 1024
    for _ in range(12):
        await spool.write(part)
    await spool.end()
    assert await drained(spool) == part * 12
    spool.close()


async def test_a_writer_waits_when_too_much_is_untaken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "UNTAKEN_BYTES", 10)
    spool = Spool()
    await spool.write(b"x" * 10)
    writer = asyncio.create_task(spool.write(b"y"))
    await asyncio.sleep(0.01)
    assert not writer.done()
    assert await spool.read() == b"x" * 10
    await writer
    await spool.end()
    assert await drained(spool) == b"y"
    spool.close()


def entry(number: int, turns: int | None) -> Entry:
    """An entry that is answered after so many turns of the event loop; None: it is refused."""

    async def submit() -> Awaited:
        if turns is None:
            raise Overloaded
        answer: Awaited = asyncio.get_running_loop().create_future()

        def come(left: int) -> None:
            if left:
                asyncio.get_running_loop().call_soon(come, left - 1)
            else:
                answer.set_result({"ticket_id": f"t{number}"})

        come(turns)
        return answer

    return Entry(number, 1, submit)


@given(st.lists(st.none() | st.integers(0, 9), max_size=40))
async def test_every_line_is_answered_in_its_order(waits: list[int | None]) -> None:
    counted, sent = list[int](), bytearray()

    async def entries() -> AsyncGenerator[Entry]:
        for number, turns in enumerate(waits, 1):
            yield entry(number, turns)

    async def send(message: Any) -> None:
        sent.extend(message.get("body", b""))

    request = Request({"type": "http", "headers": [], "state": {"request_id": "r"}})
    await BatchResponse(request, entries(), counted.append)(request.scope, request.receive, send)
    lines = [orjson.loads(line) for line in bytes(sent).splitlines()]
    assert [line["line"] for line in lines] == list(range(1, len(waits) + 1))
    for line, turns in zip(lines, waits, strict=True):
        if turns is None:
            assert (line["status"], line["error"]["code"]) == (503, "overloaded")
        else:
            assert line["decision"] == {"ticket_id": f"t{line['line']}"}
    assert counted == [line["status"] for line in lines]
