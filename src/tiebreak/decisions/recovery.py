"""Finishing what was left: tickets that a worker admitted and died before it decided them."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable
from datetime import datetime

import structlog

from tiebreak.decisions.serving import FINISHED_AT_ONCE, Serving
from tiebreak.store import reading
from tiebreak.store.database import Database

log = structlog.get_logger()

LEFT_SECONDS = 15.0  # what was admitted since then is still being decided
LOOK_SECONDS = 1.0  # a look goes through the tickets of so long: many at once would hold others up


class Recovery:
    """Decides what has stood undecided for `LEFT_SECONDS`, and at the first look everything.

    How old an admission is says the workflow's clock as it was read then, not this machine's:
    `as_of` may be ahead of the time of day, if that was set back since.
    """

    def __init__(self, db: Database, serving: Serving) -> None:
        self._db = db
        self._serving = serving
        self._readings: dict[str, deque[tuple[float, datetime]]] = {}
        self._decided_through: dict[str, datetime] = {}
        self._next_look = -math.inf

    async def look(self, workflows: Iterable[str]) -> None:
        """Finish what was left in these workflows, unless the last look was just now."""
        now = asyncio.get_running_loop().time()
        if now < self._next_look:
            return
        for workflow in workflows:
            newest = await reading.newest_as_of(self._db, workflow)
            if newest is not None:
                await self._finish(workflow, self._left_through(workflow, now, newest))
        self._next_look = now + LOOK_SECONDS

    def _left_through(self, workflow: str, now: float, newest: datetime) -> datetime:
        """Up to which `as_of` whatever is undecided was left."""
        readings = self._readings.setdefault(workflow, deque([(-math.inf, newest)]))
        readings.append((now, newest))
        while readings[1][0] <= now - LEFT_SECONDS:
            readings.popleft()
        return readings[0][1]

    async def _finish(self, workflow: str, through: datetime) -> None:
        if self._decided_through.get(workflow) == through:
            return
        count = await self._serving.recover(workflow, through=through)
        if count:
            log.info("recovered", workflow=workflow, decisions=count)
        if count < FINISHED_AT_ONCE:
            self._decided_through[workflow] = through
