"""Answers that are late: one timer for all of them, since all have the same time."""

from __future__ import annotations

import asyncio
from typing import Any

from tiebreak.web.problems import TimedOut

Awaited = asyncio.Future[dict[str, Any]]


class Deadlines:
    """Fails answers with `TimedOut` that have not come within `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[Awaited, float] = {}  # in the order in which they fall due
        self._timer: asyncio.TimerHandle | None = None

    def add(self, answer: Awaited) -> None:
        """Wait for this answer until its time is over, or `met`."""
        loop = answer.get_loop()
        self._due[answer] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._look, loop)

    def met(self, answer: Awaited) -> None:
        """The answer has come, or nobody waits for it any more."""
        self._due.pop(answer, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now, self._timer = loop.time(), None
        for answer, due in list(self._due.items()):
            if due > now:
                self._timer = loop.call_at(due, self._look, loop)
                return
            self.met(answer)
            if not answer.done():
                answer.set_exception(TimedOut(hint="Send the same ticket again."))
