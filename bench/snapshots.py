"""The data set of a training run, read from the stage as `tiebreak train` reads it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from bench.stage import Stage
from tiebreak.cli.session import opened
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.embedded.stack import Services, stack
from tiebreak.settings import Settings
from tiebreak.training.dataset import Snapshot

VALIDATION_SHARE = 0.2


def read(staged: Stage, workflow: Workflow, rules: RuleSet) -> tuple[Snapshot, datetime]:
    """All labelled tickets, and the moment from which the latest fifth of them judges."""
    with stack(Settings(data_dir=staged.data_dir)) as services:
        snapshot = asyncio.run(_read(services, workflow, rules))
    as_of: Any = snapshot.as_of.sort()
    return snapshot, as_of[int(len(as_of) * (1 - VALIDATION_SHARE))]


async def _read(services: Services, workflow: Workflow, rules: RuleSet) -> Snapshot:
    from tiebreak.training.snapshot import read_snapshot  # not into every process

    async with opened(services, "") as session:
        return await read_snapshot(
            session.db,
            workflow,
            known_by=datetime.now(UTC),
            entity_secret=session.keyring.entity_key,
            rules=rules,
        )
