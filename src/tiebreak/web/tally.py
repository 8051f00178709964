"""The tally of one worker: ids of requests, and what was answered, counted and logged."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from tiebreak.web import logs
from tiebreak.web.metrics import Metrics

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
IDS_AT_ONCE = 512


class Served(NamedTuple):
    """A request that was answered."""

    request_id: str
    route: str
    method: str
    status: int
    seconds: float
    key_id: str | None
    decision_id: str | None

    def line(self) -> dict[str, Any]:
        """What is logged of it."""
        return {
            "request_id": self.request_id,
            "route": self.route,
            "method": self.method if self.method in METHODS else "other",
            "status": self.status,
            "milliseconds": round(self.seconds * 1000, 2),
            "key_id": self.key_id,
            "decision_id": self.decision_id,
        }


class Tally:
    """Gives each request its id, and tells of those that were answered.

    What was answered in one turn of the event loop is counted and logged at its end, which is
    cheaper than one by one.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ids = _random_ids()
        self._served: list[Served] = []

    def next_id(self) -> str:
        """The id of the next request."""
        return next(self._ids)

    def add(self, served: Served) -> None:
        """Tell of this request at the end of the turn."""
        if not self._served:
            asyncio.get_running_loop().call_soon(self._tell)
        self._served.append(served)

    def _tell(self) -> None:
        """Count and log the requests of a turn of the event loop."""
        served, self._served = self._served, []
        seconds: dict[tuple[str, int], list[float]] = {}
        for each in served:
            seconds.setdefault((each.route, each.status), []).append(each.seconds)
        for (route, status), them in seconds.items():
            self._metrics.served(route, status, them)
        logs.log_all("request", (each.line() for each in served))


def _random_ids() -> Iterator[str]:
    """Random texts of 16 hexadecimal digits; the kernel is asked for many at once."""
    while True:
        digits = os.urandom(8 * IDS_AT_ONCE).hex()
        for start in range(0, len(digits), 16):
            yield digits[start : start + 16]
