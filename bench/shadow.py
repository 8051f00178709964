"""What one candidate in shadow costs online: the full path over HTTP, with and without it.

The candidate is production's policy with one knob changed: as dear to decide by as production. Runs
with and without it take turns on the same stack.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.load import Load
from bench.load import run as send
from bench.memory import watched
from bench.stack import Running, tiebreak, up
from bench.stage import Stage, stage
from tiebreak.backtest import finished
from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.cli.demonstration.scene import AUTHOR
from tiebreak.cli.session import Session, opened
from tiebreak.core.policy import PolicyParts
from tiebreak.embedded.stack import Services, stack
from tiebreak.registry import records
from tiebreak.release.releases import Office, propose
from tiebreak.settings import Settings
from tiebreak.workflows import versions

CONNECTIONS = 64
SECONDS = 10.0
ROUNDS = 3
SETTLE_SECONDS = 5.0
CATCH_UP_SECONDS = 600.0


def run() -> dict[str, Any]:
    """Requests a second and latencies with and without a candidate, and how far it fell behind."""
    staged = stage()
    workers = len(os.sched_getaffinity(0))
    with stack(Settings(data_dir=staged.data_dir)) as services:
        release = asyncio.run(_propose(services, staged))
    with up(staged.data_dir, workers) as running:
        key = tiebreak(
            *(staged.data_dir, workers, "keys", "create", "--person", "bench"),
            *("--role", "service", "--role", "ml_engineer"),
        )["key"]
        alone: list[dict[str, Any]] = []
        beside: list[dict[str, Any]] = []
        lags: list[float] = []
        caught_up: dict[str, Any] = {}
        with watched(running.pid) as peak:
            for number in range(ROUNDS):
                alone.append(_load(running, staged, key, f"alone-{number}"))
                tiebreak(
                    *(staged.data_dir, workers, "release", "shadow", "start", release),
                    *("--as", "bench"),
                )
                time.sleep(SETTLE_SECONDS)
                beside.append(_load(running, staged, key, f"beside-{number}"))
                lags.append(_shadow(staged, workers, release)["lag_seconds"])
                caught_up = _catch_up(staged, workers, release)
                tiebreak(
                    *(staged.data_dir, workers, "release", "shadow", "stop", release),
                    *("--reason", "bench", "--as", "bench"),
                )
                time.sleep(SETTLE_SECONDS)
    without, with_one = _median(alone), _median(beside)
    return {
        "workers": workers,
        "policy": staged.policy,
        "without": without,
        "with_one_candidate": {
            **with_one,
            "lag_seconds_at_the_end": round(statistics.median(lags), 2),
            "seconds_per_ticket": caught_up["seconds_per_ticket"],
            "peak_memory_mib_of_all": peak.mib,
        },
        "ratio": round(with_one["requests_per_second"] / without["requests_per_second"], 3),
    }


async def _propose(services: Services, staged: Stage) -> str:
    async with opened(services, AUTHOR) as session:
        found = (await records.current(session.db, session.keyring))[staged.workflow]
        assert isinstance(found, records.ReleaseRecord)
        office = Office(session.db, session.lane, session.keyring, session.library())
        parts = await _candidate(session, office, found)
        backtest = _untested(parts, found)
        async with session.lane.unit() as unit:
            finished.note(unit, backtest, person=AUTHOR)
        release = await propose(office, parts, backtest, author=AUTHOR, reason="bench")
        return str(release.release_id)


async def _candidate(session: Session, office: Office, found: records.ReleaseRecord) -> PolicyParts:
    recipe = await office.library.recipe(await office.library.parts(found.policy_hash))
    workflow, rules = recipe.workflow, recipe.rule_set
    share = min(1.0, workflow.knobs.audit_share + 0.01)
    knobs = workflow.knobs.model_copy(update={"audit_share": share})
    changed = workflow.model_copy(update={"knobs": knobs})
    await versions.load(session.lane, changed, rules, author=AUTHOR, reason="bench")
    return replace(recipe.parts, workflow_version=changed.version)


def _untested(parts: PolicyParts, found: records.ReleaseRecord) -> Backtest:
    """What a backtest of this policy against production would leave: here only the cost counts."""
    evidence = {
        "workflow": parts.workflow,
        "policy_hash": parts.hash,
        "policy": asdict(parts),
        "baseline": {"production": found.policy_hash},
        "window": None,
        "figures": {"tickets": 0},
    }
    with tempfile.TemporaryDirectory() as folder:
        return Evidence(Path(folder)).put(evidence, {"finished_at": "2026-01-01"})


def _shadow(staged: Stage, workers: int, release: str) -> dict[str, Any]:
    told = tiebreak(staged.data_dir, workers, "release", "shadow", "status", release)
    (found,) = told["shadows"]
    if found["error"]:
        raise RuntimeError(f"the candidate is in quarantine: {found['error']}")
    return found


def _catch_up(staged: Stage, workers: int, release: str) -> dict[str, Any]:
    """Wait until the candidate has scored everything."""
    end = time.monotonic() + CATCH_UP_SECONDS
    while (found := _shadow(staged, workers, release))["lag_seconds"] > 0:
        if time.monotonic() > end:
            raise TimeoutError("the candidate does not catch up")
        time.sleep(1)
    return found


def _load(running: Running, staged: Stage, key: str, name: str) -> dict[str, Any]:
    found = send(
        Load(
            port=running.port,
            path=f"/v1/workflows/{staged.workflow}/decisions",
            fields_file=str(staged.fields_file),
            connections=CONNECTIONS,
            seconds=SECONDS,
            id_prefix=f"{name}-{time.time_ns()}",
            headers={"Authorization": f"Bearer {key}"},
        )
    )
    if found["failed"]:
        raise RuntimeError(
            f"{found['failed']} requests failed; the first: {found['first_failure']}"
        )
    return found


def _median(runs: list[dict[str, Any]]) -> dict[str, float]:
    names = ("requests_per_second", "p50_ms", "p99_ms")
    return {name: statistics.median(run[name] for run in runs) for name in names}
