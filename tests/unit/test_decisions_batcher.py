"""Batches gather who was just answered, and an error concerns its batch alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tiebreak.core.tickets import Submission
from tiebreak.decisions.batcher import Batch, Batcher, Draining, Pending

CALLERS = 8


async def ask(batcher: Batcher, ticket_id: str, away_seconds: float = 0.0) -> dict[str, Any]:
    pending = Pending(Submission(ticket_id, None, {}, b"{}", b""), "ann", away_seconds)
    batcher.submit(pending)
    return await pending.answer


def slow_batcher() -> tuple[Batcher, list[int]]:
    """A batcher whose batches take a while, and how many were in each."""
    sizes: list[int] = []

    async def answer(batch: Batch) -> None:
        sizes.append(len(batch))
        await asyncio.sleep(0.08)
        for pending in batch:
            pending.settle({})

    return Batcher(answer, queue_size=100, batch_max=64), sizes


async def test_those_who_were_just_answered_come_together_again() -> None:
    batcher, sizes = slow_batcher()

    async def caller(number: int) -> None:
        for _ in range(4):
            await asyncio.sleep(number * 0.001)  # the first is back before the last
            await ask(batcher, str(number))

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    await batcher.drain()
    assert min(sizes[1:4]) >= CALLERS - 1, sizes  # the first of all was alone
    assert sum(sizes) == 4 * CALLERS


@pytest.mark.parametrize("callers", [8, 48])
async def test_callers_in_two_groups_come_together(callers: int) -> None:
    batcher, sizes = slow_batcher()

    async def caller(number: int) -> None:
        await asyncio.sleep(0.04 * (number % 2))  # every other one while the first are decided
        for _ in range(6):
            await ask(batcher, str(number))

    await asyncio.gather(*(caller(number) for number in range(callers)))
    await batcher.drain()
    assert callers in sizes[2:5], sizes
    assert sum(sizes) == 6 * callers


@pytest.mark.parametrize(
    ("away_seconds", "expected"),
    [((0.0, 0.0, 0.0), [3, 2]), ((1.0, 1.0, 1.0), [3, 1, 1]), ((0.0, 1.0, 1.0), [3, 1, 1])],
)
async def test_nobody_waits_unless_most_come_back_at_once(
    away_seconds: tuple[float, ...], expected: list[int]
) -> None:
    batcher, sizes = slow_batcher()
    asked = [ask(batcher, str(number), away) for number, away in enumerate(away_seconds)]
    first = asyncio.gather(*asked)
    await asyncio.sleep(0.01)
    fourth = asyncio.create_task(ask(batcher, "4", 1.0))
    await first
    await asyncio.sleep(0.002)
    await asyncio.gather(fourth, ask(batcher, "5", 1.0))
    await batcher.drain()
    assert sizes == expected


async def test_an_error_is_told_to_its_batch_and_the_next_is_answered() -> None:
    async def answer(batch: Batch) -> None:
        if batch[0].submission.ticket_id == "bad":
            raise ZeroDivisionError
        for pending in batch:
            pending.settle({"ticket_id": pending.submission.ticket_id})

    batcher = Batcher(answer, queue_size=100, batch_max=64)
    with pytest.raises(ZeroDivisionError):
        await ask(batcher, "bad")
    assert await ask(batcher, "good") == {"ticket_id": "good"}
    await batcher.drain()
    with pytest.raises(Draining):
        await ask(batcher, "late")
