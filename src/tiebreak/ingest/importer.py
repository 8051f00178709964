"""Import of history: tickets and what became known about them, from files, in time order.

Each unit is one transaction and holds all that happened up to a moment, so that an interrupted
import leaves a whole past; the next run skips what is there and goes on.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import ticket_schema
from tiebreak.core.totals import HistoryOverflow
from tiebreak.core.workflow import Workflow
from tiebreak.errors import InvalidInput, Problem
from tiebreak.ingest.intake import EventReader, Intake, TicketReader
from tiebreak.ingest.prepared import Prepared, Subjects, compute
from tiebreak.ingest.rejects import Rejects, RejectsFile, RowsRejected, beside
from tiebreak.ingest.stored import read_logs, read_stored
from tiebreak.ingest.timeline import Stored, Timeline, arrange
from tiebreak.ingest.units import Writer, parts
from tiebreak.settings import Keyring
from tiebreak.store import partitions, tables
from tiebreak.store.database import Database
from tiebreak.store.kept import Kept, kept
from tiebreak.store.keyed import content_key

Progress = Callable[[str, float], None]

SHOWN_PROBLEMS = 20


def _silent(_stage: str, _share: float) -> None:
    """Progress that nobody watches."""


class HistoryTooLarge(InvalidInput):
    """A running total of the history does not fit in 64 bits."""

    code = "history_too_large"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did."""

    workflow: str
    tickets: int
    events: Mapping[str, int]  # new ones by kind: outcome, closed, acted, feedback
    already: int  # records that were there before
    not_yet_known: int  # tickets and events of a time that is still to come
    rejected: int  # rows
    rejects: Sequence[Path]  # the files that say why
    first: datetime | None  # `as_of` of the first and last new ticket
    last: datetime | None


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one import, and what is taken of them.

    Several files of tickets are merged in time order. What was not `known_by` a moment is left for
    a later import of the same files. Tickets `as_arrived` hold nothing that was filled in later,
    which nobody but who made the files can say; to gates they are live ones.
    """

    tickets: Sequence[Path]
    events: Sequence[Path] = ()
    rejects: Path | None = None  # one file for all rejects; None: one beside each file
    known_by: datetime | None = None  # None: now
    as_arrived: bool = False


@dataclass(slots=True)
class _Read:
    intake: Intake = field(default_factory=Intake)
    rejects: list[Rejects] = field(default_factory=list[Rejects])
    rejects_files: dict[Path, RejectsFile] = field(default_factory=dict[Path, RejectsFile])

    @property
    def rejected(self) -> int:
        return sum(each.count for each in self.rejects)

    def rejects_of(self, source: Path, together: Path | None) -> Rejects:
        """The rejects of another file."""
        path = together or beside(source)
        if path not in self.rejects_files:
            self.rejects_files[path] = RejectsFile(path)
        self.rejects.append(Rejects(source, self.rejects_files[path]))
        return self.rejects[-1]

    def rejects_paths(self) -> list[Path]:
        """The files that say why rows were rejected."""
        return list(dict.fromkeys(each.file.path for each in self.rejects if each.count))


async def import_history(
    db: Database,
    keyring: Keyring,
    workflow: Workflow,
    files: Files,
    *,
    actor: str,
    now: datetime | None = None,
    strict: bool = False,
    dry_run: bool = False,
    progress: Progress = _silent,
) -> ImportReport:
    """Import tickets and events; rows that cannot be taken go to the rejects of `files`.

    A ticket's `as_of` is the time it carries; tickets of equal times do not see each other. What
    is there already is skipped, so the same files may be imported again, and an interrupted
    import goes on where it stopped. With `strict`, any rejected row means that nothing is written
    (`RowsRejected`); with `dry_run` nothing but the rejects is written in any case. Raises
    `FileUnreadable`, `HistoryTooLarge`, `ClockBehind` when live tickets come in between, and
    `HistoryNotReady`.
    """
    received_at = now or datetime.now(UTC)
    with _garbage_left():
        return await _import(
            db,
            keyring,
            workflow,
            files,
            actor,
            received_at,
            strict=strict,
            dry_run=dry_run,
            progress=progress,
        )


@contextmanager
def _garbage_left() -> Generator[None]:
    """Without the cycle collector: millions of live rows make each of its passes slow, and an
    import makes no cycles (measured: a third of the time)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def _import(
    db: Database,
    keyring: Keyring,
    workflow: Workflow,
    files: Files,
    actor: str,
    received_at: datetime,
    *,
    strict: bool,
    dry_run: bool,
    progress: Progress,
) -> ImportReport:
    read = _Read()
    async with db.connection() as conn:
        log = await kept(conn, workflow.name, HistoryPlan(workflow))
    try:
        _read(read, workflow, files, received_at, progress)
        stored = await read_stored(db, workflow, read.intake)
        progress("arranging", 0.0)
        timeline = arrange(
            read.intake, stored, lambda digest: content_key(keyring.entity_key, digest)
        )
    finally:
        for each in read.rejects_files.values():
            each.close()
    if strict and read.rejected:
        raise _refusal(read)
    prepared = await _prepare(db, keyring, workflow, log, timeline, stored)
    if not dry_run:
        origin = "arrived" if files.as_arrived else "import"
        writer = Writer(workflow.name, log, keyring, actor, received_at, origin)
        await _write(db, keyring, writer, prepared, stored, progress)
    return _report(workflow.name, read, timeline)


def _read(read: _Read, workflow: Workflow, files: Files, now: datetime, progress: Progress) -> None:
    known_by = min(files.known_by or now, now)
    todo = [(path, TicketReader(workflow, now, known_by)) for path in files.tickets]
    todo += [(path, EventReader(workflow, now, known_by)) for path in files.events]
    for done, (path, reader) in enumerate(todo):
        progress("reading", done / len(todo))
        reader.read(path, read.rejects_of(path, files.rejects), read.intake)
    progress("reading", 1.0)


async def _prepare(
    db: Database,
    keyring: Keyring,
    workflow: Workflow,
    log: Kept,
    timeline: Timeline,
    stored: Stored,
) -> Prepared:
    subjects = Subjects.of(timeline, log.plan, ticket_schema(workflow))
    earlier = await read_logs(db, keyring, workflow.name, log, subjects.entities, stored)
    try:
        return compute(workflow, log.plan, timeline, subjects, earlier)
    except HistoryOverflow as error:
        raise HistoryTooLarge(
            hint="Lower `scale` of a history feature, or reject absurd values by `maximum`."
        ) from error


async def _write(
    db: Database,
    keyring: Keyring,
    writer: Writer,
    prepared: Prepared,
    stored: Stored,
    progress: Progress,
) -> None:
    years = {new.time.year for new in prepared.tickets}
    if years:
        async with db.connection() as connection:
            await partitions.ensure(connection, years)
    planned = parts(prepared)
    lane = await Lane.open(db, "import", keyring)
    for done, part in enumerate(planned):
        progress("writing", done / len(planned))
        async with lane.unit() as unit:
            await writer.write(unit, prepared, part)
            if done + 1 == len(planned):
                unit.add(tables.system_audit, [_journal(writer, prepared, stored)])
    progress("writing", 1.0)


def _journal(writer: Writer, prepared: Prepared, stored: Stored) -> dict[str, object]:
    detail = {
        "tickets": len(prepared.tickets),
        "events": len(prepared.events),
        "feedback": len(prepared.feedback),
        "after": stored.last_as_of.isoformat(),
        "origin": writer.origin,
    }
    return entry(writer.actor, "history.imported", writer.workflow, detail)


def _refusal(read: _Read) -> RowsRejected:
    problems = tuple(
        Problem(each.source, "rejected", f"{each.count} rows rejected")
        for each in read.rejects
        if each.count
    )
    names = ", ".join(map(str, read.rejects_paths()))
    return RowsRejected(
        f"{read.rejected} rows are not valid; nothing was imported.",
        hint=f"See {names}; correct them, or import without --strict.",
        problems=problems[:SHOWN_PROBLEMS],
        rejected=read.rejected,
    )


def _report(workflow: str, read: _Read, timeline: Timeline) -> ImportReport:
    events: dict[str, int] = {"outcome": 0, "closed": 0, "acted": 0}
    for new in timeline.events:
        events[new.event.kind] += 1
    times = [new.time for new in timeline.tickets]
    return ImportReport(
        workflow=workflow,
        tickets=len(timeline.tickets),
        events={**events, "feedback": len(timeline.feedback)},
        already=timeline.already,
        not_yet_known=read.intake.not_yet_known,
        rejected=read.rejected,
        rejects=read.rejects_paths(),
        first=times[0] if times else None,
        last=times[-1] if times else None,
    )
