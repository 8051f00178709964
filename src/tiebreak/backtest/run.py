"""Runs: a backtest from its subject to its evidence, in parallel and resumable.

A run keeps its plan and the tally of each finished span below `<data>/backtests/unfinished/`; the
same request goes on where a killed run stopped, at the same moment of knowledge.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from tiebreak.audit.lanes import Lane
from tiebreak.backtest import contexts, finished
from tiebreak.backtest.desk import Desk, built, context_file, tally_file
from tiebreak.backtest.evidence import FORMAT, Backtest, Evidence
from tiebreak.backtest.flips import Tally, folded
from tiebreak.backtest.outcomes import change, cost, figures
from tiebreak.backtest.plans import Plan, Request, check_segments
from tiebreak.backtest.window import Span, spans_of, window_of
from tiebreak.backtest.workers import work
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import write_whole
from tiebreak.bundles.signing import BundleKeys
from tiebreak.errors import Conflict, NotFound
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.settings import Settings
from tiebreak.store.database import Database

SMALLEST_SEGMENT = 10  # tickets; smaller ones are told together, so that none points at a person
MOST_SEGMENTS = 40
PLAN = "plan.json"

Progress = Callable[[str, float], None]


class AlreadyRunning(Conflict):
    """The same backtest is running."""

    code = "already_running"


class NoBaseline(NotFound):
    """No ticket of the window has a decision, and no policy is in production."""

    code = "no_baseline"


@dataclass(frozen=True)
class Runner:
    """Where backtests read, where they are kept, and who runs them."""

    db: Database
    lane: Lane
    settings: Settings
    keys: BundleKeys
    person: str

    @property
    def evidence(self) -> Evidence:
        """The finished backtests."""
        return Evidence.of(self.settings)

    async def run(
        self, request: Request, *, jobs: int, minutes_a_review: float, progress: Progress
    ) -> Backtest:
        """Run or go on with a backtest, keep its evidence, and note that in the journal.

        Raises what `window_of` and `recompute` raise, `SegmentUnfit`, `ModelUnfit`,
        `AlreadyRunning`, `NoBaseline` and `WorkerLost`.
        """
        begun, started_at = time.monotonic(), datetime.now(UTC)
        check_segments(request.candidate.workflow, request.by)
        artifacts = ArtifactStore.of(self.settings)
        await asyncio.to_thread(built, request.candidate, artifacts, self.keys)
        folder = self.evidence.folder / "unfinished" / request.key
        with _alone(folder):
            plan = await self._plan(request, folder, progress)
            left = [span for span in plan.spans if not tally_file(folder, span).exists()]
            desk = Desk(self.settings, self.keys, request, plan, folder)
            await asyncio.to_thread(_work, desk, left, jobs, progress)
            tally = Tally()
            for span in plan.spans:
                tally.add(Tally.from_data(orjson.loads(tally_file(folder, span).read_bytes())))
            if not tally.cells:
                raise NoBaseline(hint="Install a policy, or decide tickets.")
            found = _evidence(request, plan, tally, minutes_a_review)
            made = self.evidence.put(
                found,
                {
                    "author": self.person,
                    "started_at": started_at.isoformat(),
                    "finished_at": datetime.now(UTC).isoformat(),
                    "seconds": round(time.monotonic() - begun, 3),
                    "jobs": jobs,
                    "spans": len(plan.spans),
                    "spans_of_earlier_runs": len(plan.spans) - len(left),
                },
            )
            await self._note(made)
            shutil.rmtree(folder)
        return made

    async def _plan(self, request: Request, folder: Path, progress: Progress) -> Plan:
        """The plan of the unfinished run, or a new one."""
        path = folder / PLAN
        if path.exists():
            return Plan.load(path.read_bytes())
        known_by = datetime.now(UTC)
        workflow = request.candidate.workflow
        window = await window_of(self.db, request.workflow, request.since, request.until)
        spans = await spans_of(self.db, request.workflow, window)
        is_recomputed, erased = not await contexts.holds_all(self.db, workflow), 0
        if is_recomputed:
            progress("Computing history anew", 0.0)
            found = await contexts.recompute(self.db, workflow, until=window.until)
            erased = found.erased
            for span in spans:
                within = pl.col("as_of").is_between(span.since, span.until, closed="left")
                found.frame.filter(within).write_ipc(context_file(folder, span))
        plan = Plan(known_by, window, spans, is_recomputed, erased)
        write_whole(path, plan.dump())
        return plan

    async def _note(self, made: Backtest) -> None:
        async with self.lane.unit() as unit:
            finished.note(unit, made, person=self.person)


def _work(desk: Desk, spans: Sequence[Span], jobs: int, progress: Progress) -> None:
    total, before = len(desk.plan.spans), len(desk.plan.spans) - len(spans)
    tickets = 0
    for done, count in enumerate(work(desk.opened, spans, jobs), before + 1):
        tickets += count
        progress(f"{tickets:,} tickets", done / total)


def _evidence(
    request: Request, plan: Plan, tally: Tally, minutes_a_review: float
) -> dict[str, Any]:
    """What was found, and all that it depends on, as plain data."""

    def told(name: str, cells: Any) -> dict[str, Any]:
        return {"value": name, **figures(cells, minutes_a_review=minutes_a_review)}

    workflow, parts = request.candidate.workflow, request.candidate.parts
    production = request.production
    whole = figures(tally.cells, minutes_a_review=minutes_a_review)
    whole["ties"] = change([tally.marks[f"ties_{when}"] for when in ("before", "after")])
    # by the costs that the gates go by
    whole["cost"] = cost(whole, (production or request.candidate).workflow.release)
    return {
        "format": FORMAT,
        "workflow": request.workflow,
        "policy_hash": parts.hash,
        "policy": asdict(parts),
        "baseline": {
            "production": None if production is None else production.parts.hash,
            "policy": None if production is None else asdict(production.parts),
            **{name: tally.sources[name] for name in ("stored", "recomputed")},
        },
        "window": {
            "since": plan.window.since.isoformat(),
            "until": plan.window.until.isoformat(),
        },
        "known_by": plan.known_by.isoformat(),
        "context": "recomputed" if plan.is_recomputed else "stored",
        "fingerprint": engine_fingerprint().hash,
        "minutes_a_review": minutes_a_review,
        "label": None if workflow.label is None else workflow.label.name,
        "skipped": dict(sorted(tally.skipped.items())),
        "erased_in_history": plan.erased,
        "expression_errors": dict(sorted(tally.errors.items())),
        "figures": whole,
        "before_valid_from": tally.marks["before_valid_from"],
        "months": [told(name, cells) for name, cells in sorted(tally.months.items())],
        "segments": {
            name: [
                told(value, cells)
                for value, cells in folded(
                    tally.segments.get(name, {}), smallest=SMALLEST_SEGMENT, most=MOST_SEGMENTS
                )
            ]
            for name in request.by
        },
        "examples": {
            kind: [{k: v for k, v in each.items() if k != "ticket_hash"} for each in examples]
            for kind, examples in tally.examples.items()
        },
    }


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Nobody else works in this folder. Raises `AlreadyRunning`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(hint="Wait for it, or stop it and run this again.") from None
        try:
            yield
        finally:
            if not (folder / PLAN).exists():  # there is nothing to go on with
                shutil.rmtree(folder, ignore_errors=True)
