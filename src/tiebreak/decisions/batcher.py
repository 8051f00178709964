"""The micro-batcher: what waits is admitted together, and the next batch while one is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tiebreak.core.tickets import Submission
from tiebreak.errors import Unavailable

IN_FLIGHT = 2  # batches between admission and acknowledgement


class Overloaded(Unavailable):
    """More tickets wait than the queue holds."""

    code = "overloaded"


class Draining(Unavailable):
    """This worker is shutting down."""

    code = "draining"


def _future() -> asyncio.Future[dict[str, Any]]:
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """A submission that waits for its decision."""

    submission: Submission
    actor: str
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
Settle = Callable[[], Awaitable[None]]


class Batcher:
    """Gathers concurrent submissions of one workflow into batches; no waiting when idle.

    `admit` is called with one batch at a time and returns how to settle it; up to `IN_FLIGHT`
    batches are settled at once. An error of either is given to the batch's callers.
    """

    def __init__(
        self, admit: Callable[[Batch], Awaitable[Settle]], *, queue_size: int, batch_max: int
    ) -> None:
        self._admit = admit
        self._batch_max = batch_max
        self._queue: asyncio.Queue[Pending] = asyncio.Queue(queue_size)
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._settling: set[asyncio.Task[None]] = set()
        self._is_draining = False
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
        await asyncio.gather(self._runner, *self._settling, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            batch = await self._next()
            await self._slots.acquire()
            try:
                settle = await self._admit(batch)
            except Exception as error:  # noqa: BLE001 - the callers get it, the loop goes on
                self._finish(batch, error)
                continue
            task = asyncio.create_task(self._settle(batch, settle))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _next(self) -> Batch:
        batch = [await self._queue.get()]
        while len(batch) < self._batch_max and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _settle(self, batch: Batch, settle: Settle) -> None:
        try:
            await settle()
        except Exception as error:  # noqa: BLE001 - the callers get it, the loop goes on
            self._finish(batch, error)
        else:
            self._finish(batch, None)

    def _finish(self, batch: Batch, error: Exception | None) -> None:
        self._slots.release()
        for pending in batch:
            if error is not None:
                pending.fail(error)
            self._queue.task_done()
