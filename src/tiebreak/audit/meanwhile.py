"""Work for the event loop while the database is busy with a statement of the same batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)


class Meanwhile(Generic[T_co]):
    """Work to be done once, by whoever comes first: `during` a statement, or `result`."""

    def __init__(self, work: Callable[[], T_co]) -> None:
        self._work = work
        self._result: T_co | None = None
        self._error: Exception | None = None
        self._is_done = False

    def do(self) -> None:
        """Do it; what it raises is raised by `result`."""
        self._is_done = True
        try:
            self._result = self._work()
        except Exception as error:  # noqa: BLE001 - kept for `result`
            self._error = error

    def result(self) -> T_co:
        """What came of it; raises what it raised."""
        if not self._is_done:
            self.do()
        if self._error is not None:
            raise self._error
        return self._result  # pyright: ignore[reportReturnType]


async def during(statement: Coroutine[Any, Any, object], work: Meanwhile[object] | None) -> None:
    """Send the statement, do the work, and wait for the statement; raises what it raised."""
    if work is None:
        await statement
        return
    sent = asyncio.ensure_future(statement)
    try:
        await asyncio.sleep(0)  # it is written to the socket
        await asyncio.sleep(0)  # the socket is written to the network
        work.do()
        await sent
    except asyncio.CancelledError:
        sent.cancel()
        await asyncio.wait([sent])
        raise
