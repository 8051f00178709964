"""Replay of stored decisions in bulk, beside the same decisions one at a time.

Ours reads decisions, tickets and context from the store, decides in batches and compares every
bit. The alternative is what a service without a columnar core would do: the same function, called
for each ticket.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.load import Load
from bench.load import run as send
from bench.memory import database_pids, watched
from bench.stack import tiebreak, up
from bench.stage import Stage, stage
from tiebreak.cli.session import Session, opened
from tiebreak.decisions.replay import Cause, ReplayReport, replay
from tiebreak.embedded.stack import Services, stack
from tiebreak.settings import Settings
from tiebreak.store import reading
from tiebreak.store.reading import Row

SECONDS = 15.0
SINGLY = 300
Pairs = AsyncGenerator[Sequence[tuple[Row, Row]]]


def run() -> dict[str, Any]:
    """Decisions a second of both, and the share that was identical."""
    staged = stage()
    _decide_some(staged)
    with stack(Settings(data_dir=staged.data_dir)) as services:
        whole, single = asyncio.run(_measure(services))
    ours, other = whole.per_second, single.per_second
    return {
        "tiebreak": {
            "decisions": whole.report.total,
            "decisions_per_second": round(ours, 1),
            "peak_memory_mib": whole.peak_mib,
        },
        "identical": whole.report.counts[Cause.IDENTICAL] / whole.report.total,
        "alternative": {
            "name": "the same decisions one at a time",
            "decisions": single.report.total,
            "decisions_per_second": round(other, 1),
            "peak_memory_mib": single.peak_mib,
        },
        "ratio": round(ours / other, 2),
    }


@dataclass(frozen=True)
class Run:
    """What a replay found, how long it took, and the memory of it and of Postgres."""

    report: ReplayReport
    seconds: float
    peak_mib: float

    @property
    def per_second(self) -> float:
        return self.report.total / self.seconds


async def _measure(services: Services) -> tuple[Run, Run]:
    async with opened(services, "") as session:
        library = session.library()
        await replay(reading.pairs(session.db, sample=100), library)  # loads and compiles

        async def timed(pairs: Pairs) -> Run:
            with watched(*database_pids(services)) as peak:
                begun = time.monotonic()
                report = await replay(pairs, library)
                seconds = time.monotonic() - begun
            return Run(report, seconds, peak.mib)

        return await timed(reading.pairs(session.db)), await timed(_singly(session))


async def _singly(session: Session) -> Pairs:
    async for pairs in reading.pairs(session.db, sample=SINGLY):
        for pair in pairs:
            yield [pair]


def _decide_some(staged: Stage) -> None:
    """Decide tickets over HTTP, so that there is something to replay."""
    workers = len(os.sched_getaffinity(0))
    with up(staged.data_dir, workers) as running:
        key = tiebreak(
            staged.data_dir, workers, "keys", "create", "--person", "bench", "--role", "service"
        )["key"]
        send(
            Load(
                port=running.port,
                path=f"/v1/workflows/{staged.workflow}/decisions",
                fields_file=str(staged.fields_file),
                connections=64,
                seconds=SECONDS,
                id_prefix=f"replay-{time.time_ns()}",
                headers={"Authorization": f"Bearer {key}"},
            )
        )
