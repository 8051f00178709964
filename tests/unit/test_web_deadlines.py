"""Late answers fail when they are due; those that have come are left alone."""

from __future__ import annotations

import asyncio

from tiebreak.web.deadlines import Awaited, Deadlines
from tiebreak.web.problems import TimedOut

SECONDS = 0.1


def awaited(deadlines: Deadlines) -> Awaited:
    answer: Awaited = asyncio.get_running_loop().create_future()
    deadlines.add(answer)
    return answer


async def test_each_answer_has_its_own_time() -> None:
    deadlines = Deadlines(SECONDS)
    first = awaited(deadlines)
    await asyncio.sleep(SECONDS * 0.7)
    second = awaited(deadlines)
    await asyncio.sleep(SECONDS * 0.5)
    assert isinstance(first.exception(), TimedOut)
    assert not second.done()
    await asyncio.sleep(SECONDS * 0.7)
    assert isinstance(second.exception(), TimedOut)
    third = awaited(deadlines)
    await asyncio.sleep(SECONDS * 1.5)
    assert isinstance(third.exception(), TimedOut)


async def test_answers_that_came_or_that_nobody_awaits_are_left_alone() -> None:
    deadlines = Deadlines(SECONDS)
    come, met, left = (awaited(deadlines) for _ in range(3))
    come.set_result({})
    deadlines.met(met)
    await asyncio.sleep(SECONDS * 1.5)
    assert come.result() == {}
    assert not met.done()
    assert isinstance(left.exception(), TimedOut)
