"""Work for the event loop while the database is busy with a statement of the same batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from tiebreak.core.steps import Steps

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Meanwhile(Generic[T_co]):
    """Work to be done once: a step `during` each of some statements, what is left by `result`."""

    def __init__(self, steps: Steps[T_co]) -> None:
        self._steps = steps
        self._result: T_co | None = None
        self._error: Exception | None = None
        self._is_done = False

    @staticmethod
    def once(work: Callable[[], T]) -> Meanwhile[T]:
        """Work of one step."""
        return Meanwhile(_one_step(work))

    def step(self) -> bool:
        """Do the next step; whether any is left. What it raises is raised by `result`."""
        if not self._is_done:
            try:
                next(self._steps)
            except StopIteration as end:
                self._is_done, self._result = True, end.value
            except Exception as error:  # noqa: BLE001 - kept for `result`
                self._is_done, self._error = True, error
        return not self._is_done

    def result(self) -> T_co:
        """What came of it, once the steps left are done; raises what one of them raised."""
        while self.step():
            pass
        if self._error is not None:
            raise self._error
        return self._result  # pyright: ignore[reportReturnType]


async def during(statement: Coroutine[Any, Any, T], work: Meanwhile[object] | None) -> T:
    """Send the statement, do one step of the work, and wait for the answer; it is given.

    Raises what the statement raised.
    """
    if work is None:
        return await statement
    sent = asyncio.ensure_future(statement)
    try:
        await asyncio.sleep(0)  # it is written to the socket
        await asyncio.sleep(0)  # the socket is written to the network
        work.step()
        return await sent
    except asyncio.CancelledError:
        sent.cancel()
        await asyncio.gather(sent, return_exceptions=True)
        raise


def _one_step(work: Callable[[], T]) -> Steps[T]:
    yield from ()
    return work()
