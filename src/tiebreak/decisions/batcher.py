"""The micro-batcher: what waits is decided together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tiebreak.core.tickets import Submission
from tiebreak.errors import Unavailable

PATIENCE_SHARE = 0.25  # of the time that the last batch took
MAX_PATIENCE_SECONDS = 0.02


class Overloaded(Unavailable):
    """More tickets wait than the queue holds."""

    code = "overloaded"


class Draining(Unavailable):
    """This worker is shutting down."""

    code = "draining"


def _future() -> asyncio.Future[dict[str, Any]]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class Pending:
    """A submission that waits for its decision.

    Its caller had been away for so many seconds since the answer before.
    """

    submission: Submission
    actor: str
    away_seconds: float = 0.0
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    answer: asyncio.Future[dict[str, Any]] = field(default_factory=_future)

    def fail(self, error: BaseException) -> None:
        """Give the waiting caller this error, once."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def settle(self, answer: dict[str, Any]) -> None:
        """Give the waiting caller the answer, once."""
        if not self.answer.done():
            self.answer.set_result(answer)


Batch = list[Pending]


class Batcher:
    """Gathers concurrent submissions of one workflow into batches; no waiting when idle.

    `answer` is called with one batch at a time and settles every submission in it; an error it
    raises is given to the batch's callers. One batch after the other costs less than several at
    once: what waits meanwhile makes the next batch larger, and most of a batch's cost is the same
    however many tickets it holds.
    """

    def __init__(
        self, answer: Callable[[Batch], Awaitable[None]], *, queue_size: int, batch_max: int
    ) -> None:
        self._answer = answer
        self._batch_max = batch_max
        self._queue: asyncio.Queue[Pending] = asyncio.Queue(queue_size)
        self._is_draining = False
        self._expected = 0
        self.counts = 0, 0  # tickets and batches since the start
        self._last_seconds = 0.0
        self._runner = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """How many submissions wait to be admitted."""
        return self._queue.qsize()

    def submit(self, pending: Pending) -> None:
        """Queue a submission. Raises `Overloaded` or `Draining`."""
        if self._is_draining:
            raise Draining(hint="Send it again; another worker will answer.")
        try:
            self._queue.put_nowait(pending)
        except asyncio.QueueFull:
            raise Overloaded(hint="Send it again after a second.") from None

    async def drain(self) -> None:
        """Refuse new submissions and settle every queued one."""
        self._is_draining = True
        await self._queue.join()
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            batch = await self._next()
            self.counts = self.counts[0] + len(batch), self.counts[1] + 1
            begun = time.perf_counter()
            try:
                await self._answer(batch)
            except Exception as error:  # noqa: BLE001 - the callers get it, the loop goes on
                for pending in batch:
                    pending.fail(error)
            self._last_seconds = time.perf_counter() - begun
            returning = sum(pending.away_seconds < self._last_seconds for pending in batch)
            self._expected = returning + self.waiting if 2 * returning > len(batch) else 0
            for _ in batch:
                self._queue.task_done()

    async def _next(self) -> Batch:
        """All that waits; and while fewer wait than are expected, those that come soon.

        Who was answered with the last batch, and had come back at once before, is about to send
        again. Where most do, they are expected beside those that wait already: without patience
        the first of them makes a batch of its own, and batches stay small for ever; and callers
        would fall into two groups, each waiting out the other's batch. A caller who is alone never
        waits, nor do tickets that come as they come.
        """
        batch = self._waiting([await self._queue.get()])
        patience = min(self._last_seconds * PATIENCE_SHARE, MAX_PATIENCE_SECONDS)
        if len(batch) < self._expected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while len(batch) < min(self._expected, self._batch_max):
                        batch.append(await self._queue.get())
        return self._waiting(batch)

    def _waiting(self, batch: Batch) -> Batch:
        """The batch with all that waits and finds place in it."""
        while len(batch) < self._batch_max and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch
