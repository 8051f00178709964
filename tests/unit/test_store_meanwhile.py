"""Work that is done while a statement is under way."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from tiebreak.core.steps import Steps
from tiebreak.store.meanwhile import Meanwhile, during


def test_work_is_done_once_and_its_result_kept() -> None:
    calls = list[int]()

    def work() -> int:
        calls.append(1)
        return 7

    meanwhile = Meanwhile.once(work)
    assert (meanwhile.result(), meanwhile.result()) == (7, 7)
    assert calls == [1]


def in_steps(*steps: Callable[[], object]) -> Steps[str]:
    for step in steps:
        step()
        yield
    return "done"


async def test_work_goes_on_during_the_next_statement_and_is_done_once() -> None:
    order = list[int]()
    work = Meanwhile(in_steps(*(lambda i=i: order.append(i) for i in range(3))))
    for expected in ([0], [0, 1], [0, 1, 2], [0, 1, 2]):
        assert await during(asyncio.sleep(0, "told"), work) == "told"
        assert order == expected
    assert work.result() == "done"


async def test_a_step_that_raises_is_the_last() -> None:
    def broken() -> None:
        raise ValueError("broken")

    order = list[str]()
    work = Meanwhile(in_steps(lambda: order.append("first"), broken, lambda: order.append("third")))
    await during(asyncio.sleep(0.05), work)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            work.result()
    assert order == ["first"]


async def test_the_statement_is_sent_before_the_work_and_awaited_after_it() -> None:
    order, answered = list[str](), asyncio.get_running_loop().create_future()

    async def statement() -> None:
        order.append("sent")
        await answered
        order.append("answered")

    def work() -> None:
        order.append("worked")
        answered.set_result(None)

    meanwhile = Meanwhile.once(work)
    await during(statement(), meanwhile)
    assert order == ["sent", "worked", "answered"]
    meanwhile.result()
    assert order == ["sent", "worked", "answered"]


async def test_what_the_work_raises_is_raised_by_its_result_alone() -> None:
    def work() -> None:
        raise ValueError("broken")

    meanwhile = Meanwhile.once(work)
    await during(asyncio.sleep(0), meanwhile)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            meanwhile.result()


async def test_what_the_statement_raises_is_raised_after_the_work() -> None:
    async def statement() -> None:
        raise OSError("gone")

    done = list[bool]()
    with pytest.raises(OSError, match="gone"):
        await during(statement(), Meanwhile.once(lambda: done.append(True)))
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

    running = asyncio.create_task(during(statement(), Meanwhile.once(lambda: None)))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["cancelled"]


async def test_a_caller_who_is_cancelled_before_the_work_leaves_no_error_behind() -> None:
    leaks = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, told: leaks.append(told))

    async def statement() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("gone") from None

    running = asyncio.create_task(during(statement(), Meanwhile.once(lambda: None)))
    for _ in range(2):  # the statement has begun, the work has not
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    del running
    gc.collect()
    assert leaks == []
