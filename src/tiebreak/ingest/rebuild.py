"""Rebuilding history: a new generation of the log that keeps what a workflow version reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.workflow import Workflow
from tiebreak.ingest.builds import FEW_EVENTS, Build, Builder
from tiebreak.ingest.recorded import Schemas, end_of
from tiebreak.registry import records
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.history import EPOCH
from tiebreak.store.kept import check_entities, definitions, ids_of, stored_slots
from tiebreak.workflows import versions

Progress = Callable[[str, float], None]


def _silent(_stage: str, _share: float) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did, or with `dry_run` would do."""

    workflow: str
    version: int  # ordinal of the workflow version that it was for
    generation: int  # that keeps all the version reads
    added: Sequence[str]  # slots that the generation before did not keep; none: nothing to do
    dropped: Sequence[str]  # slots that neither this version nor the one in production reads
    events: int
    erased: int  # events left out because their ticket is erased


async def rebuild(
    db: Database,
    lane: Lane,
    keyring: Keyring,
    workflow: str,
    *,
    actor: str,
    ordinal: int | None = None,
    dry_run: bool = False,
    progress: Progress = _silent,
) -> RebuildReport:
    """Build the generation that keeps what production and a version (None: the newest) read.

    Does nothing when the log keeps it already. Run again after an interruption it goes on where
    it was. Raises `UnknownWorkflow`, `ForgedRelease`, `EntityChanged`, `FieldChanged`,
    `HistoryTooLarge`, and `RebuildOvertaken` when another rebuild or a release came first.
    """
    wanted = (
        await versions.latest(db, workflow)
        if ordinal is None
        else await versions.get(db, workflow, ordinal)
    )
    plan = await _plan(db, keyring, wanted.workflow)
    async with db.connection() as conn:
        clock = await conn.fetchrow(_CLOCK, workflow)
        base = 1 if clock is None else clock["history_generation"]
        before = set(await stored_slots(conn, workflow, base))
        known = await definitions(conn, workflow, base)
    for other in known.values():
        check_entities(wanted.workflow, other)
    schemas = Schemas.of([strand.workflow for strand in plan.bookings.strands])
    kept = ids_of(*plan.bookings.strands)
    added = sorted(kept - before) if clock is not None else []
    build = Build(plan, base, base, EPOCH)
    if added and dry_run:
        build = replace(build, erased=await _erased(db, workflow))
    elif added:
        builder = Builder(lane, keyring, schemas, actor)
        build = await builder.begin(plan, base)
        build = await _run(db, keyring, builder, build, progress)
    return RebuildReport(
        workflow=workflow,
        version=wanted.version.ordinal,
        generation=build.generation,
        added=added,
        dropped=sorted(before - kept) if added else [],
        events=build.events,
        erased=build.erased,
    )


async def _plan(db: Database, keyring: Keyring, wanted: Workflow) -> HistoryPlan:
    """All that production and the wanted version read, booked by production where both do."""
    own = HistoryPlan(wanted)
    production = await _in_production(db, keyring, wanted.name)
    if production is None or production == wanted:
        return own
    check_entities(production, wanted)
    plan = HistoryPlan(production)
    more = own.strand.only(ids_of(own.strand) - ids_of(plan.strand))
    return plan.keeping(more) if more.slots else plan


async def _in_production(db: Database, keyring: Keyring, workflow: str) -> Workflow | None:
    release = (await records.current(db, keyring)).get(workflow)
    if release is None:
        return None
    if isinstance(release, records.ForgedRelease):
        raise release
    version = await records.workflow_version(db, release)
    return (await versions.addressed(db, workflow, version)).workflow


async def _erased(db: Database, workflow: str) -> int:
    async with db.connection() as conn:
        return await conn.fetchval(_ERASED, workflow)


async def _run(
    db: Database, keyring: Keyring, builder: Builder, build: Build, progress: Progress
) -> Build:
    """Go through time until little is left, then do that under the history lock and switch."""
    name, kept = build.plan.workflow.name, ids_of(*build.plan.bookings.strands)

    async def is_still_wanted() -> bool:
        production = await _in_production(db, keyring, name)
        return production is None or ids_of(HistoryPlan(production).strand) <= kept

    async with db.connection() as conn:
        first = max(build.through, await conn.fetchval(_FIRST, name) or build.through)
    while True:
        async with db.connection() as conn:
            last = await conn.fetchval(_LAST, name)
            is_near = await end_of(conn, name, build.through, last, FEW_EVENTS) == last
        if is_near:
            return await builder.finish(build, is_still_wanted)
        build = await builder.go_on(build, last)
        progress("building", _share(first, build.through, last))


def _share(first: datetime, at: datetime, last: datetime) -> float:
    return max(0.0, (at - first) / (last - first)) if last > first else 1.0


_CLOCK = "SELECT history_generation FROM workflow_clocks WHERE workflow = $1"

_LAST = "SELECT last_as_of FROM workflow_clocks WHERE workflow = $1"

_FIRST = "SELECT min(as_of) FROM tickets WHERE workflow = $1"

_ERASED = """
    SELECT (SELECT count(*) FROM tickets WHERE workflow = $1 AND content IS NULL)
        + (SELECT count(*) FROM outcomes
           WHERE workflow = $1 AND content IS NULL AND kind IN ('closed', 'outcome'))
"""
