"""Work that is done while a statement is under way."""

from __future__ import annotations

import asyncio

import pytest

from tiebreak.audit.meanwhile import Meanwhile, during


def test_work_is_done_once_and_its_result_kept() -> None:
    calls = list[int]()

    def work() -> int:
        calls.append(1)
        return 7

    meanwhile = Meanwhile(work)
    assert (meanwhile.result(), meanwhile.result()) == (7, 7)
    assert calls == [1]


async def test_the_statement_is_sent_before_the_work_and_awaited_after_it() -> None:
    order, answered = list[str](), asyncio.get_running_loop().create_future()

    async def statement() -> None:
        order.append("sent")
        await answered
        order.append("answered")

    def work() -> None:
        order.append("worked")
        answered.set_result(None)

    meanwhile = Meanwhile(work)
    await during(statement(), meanwhile)
    assert order == ["sent", "worked", "answered"]
    meanwhile.result()
    assert order == ["sent", "worked", "answered"]


async def test_what_the_work_raises_is_raised_by_its_result_alone() -> None:
    def work() -> None:
        raise ValueError("broken")

    meanwhile = Meanwhile(work)
    await during(asyncio.sleep(0), meanwhile)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            meanwhile.result()


async def test_what_the_statement_raises_is_raised_after_the_work() -> None:
    async def statement() -> None:
        raise OSError("gone")

    done = list[bool]()
    with pytest.raises(OSError, match="gone"):
        await during(statement(), Meanwhile(lambda: done.append(True)))
    assert done == [True]


async def test_without_work_the_statement_is_awaited() -> None:
    done = list[bool]()

    async def statement() -> None:
        done.append(True)

    await during(statement(), None)
    assert done == [True]


async def test_a_caller_who_is_cancelled_cancels_the_statement() -> None:
    ended = list[str]()

    async def statement() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    running = asyncio.create_task(during(statement(), Meanwhile(lambda: None)))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["cancelled"]
