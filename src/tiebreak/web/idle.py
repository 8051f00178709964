"""Idle connections: closed after a while, by one timer however many requests come meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Idle:
    """Calls `end` once a connection has been idle for `seconds`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, end: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._end = end
        self.lasted_seconds = math.inf  # the last time; at first nobody knows
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Nothing is under way from now on."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)

    def over(self) -> None:
        """Something is under way."""
        if self._since is not None:
            self.lasted_seconds = self._loop.time() - self._since
        self._since = None

    def stop(self) -> None:
        """The connection has gone."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        due = self._since + self._seconds
        if due <= self._loop.time():
            self._end()
        else:
            self._timer = self._loop.call_at(due, self._look)
