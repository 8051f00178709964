"""The spool between a batch's decisions and a client that takes its time."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.web import batches
from tiebreak.web.batches import Spool


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
