"""Looks after the artifacts while serving: is the place there, and does it hold what decides."""

from __future__ import annotations

import asyncio
import random

import structlog

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.decisions.active import ActivePolicies
from tiebreak.errors import Problem

log = structlog.get_logger()

EVERY_SECONDS = 15.0
PAUSES = 0.6, 1.4


class Upkeep:
    """Examines the artifacts now and then, in a thread, so that no decision waits for it."""

    def __init__(self, artifacts: ArtifactStore, active: ActivePolicies) -> None:
        self._artifacts = artifacts
        self._active = active
        self.problems: tuple[Problem, ...] = ()

    async def keep_on(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            pause = EVERY_SECONDS * random.uniform(*PAUSES)  # noqa: S311 - not all workers at once
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Look once, and log what is newly wrong."""
        found = await asyncio.to_thread(self._artifacts.examine, self._active.bundles())
        told = {problem.code for problem in self.problems}
        for problem in found:
            if problem.code not in told:
                log.warning("artifacts_trouble", code=problem.code, reason=problem.message)
        self.problems = found
