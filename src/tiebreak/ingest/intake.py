"""What files of history hold: tickets that arrived, and what became known about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from tiebreak.core.bands import Band
from tiebreak.core.expressions import Expression, Scope, Symbol, Type, compile_expression
from tiebreak.core.scopes import symbols_of
from tiebreak.core.tickets import (
    Schema,
    Submission,
    Values,
    outcome_schema,
    read_submission,
    ticket_schema,
)
from tiebreak.core.workflow import EventSource, Field, FieldType, Workflow
from tiebreak.errors import Problem
from tiebreak.ingest.files import read_rows
from tiebreak.ingest.rejects import Rejects
from tiebreak.ingest.rows import Row

ROWS_AT_ONCE = 20_000
IN_THE_FUTURE = Problem("", "in_the_future", "is later than now", "correct the time")

_FEEDBACK_FIELDS = (
    Field(name="reviewer", type=FieldType.TEXT, required=True, max_length=200),
    Field(
        name="band",
        type=FieldType.CATEGORY,
        required=True,
        values=tuple(band.label for band in Band),
    ),
    Field(name="note", type=FieldType.TEXT, max_length=4_000),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: the rejects of its file, and its number."""

    rejects: Rejects
    row: int

    def reject(self, *problems: Problem) -> None:
        """Write down why this row is rejected."""
        self.rejects.add(self.row, problems)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A ticket as it arrived; its `as_of` is the time that it carries."""

    submission: Submission
    as_of: datetime
    place: Place


@dataclass(frozen=True, slots=True)
class Event:
    """What became known about a ticket at a time: an outcome, its closing, that someone acted."""

    ticket_id: str
    kind: str
    given_at: datetime
    values: Values
    content: bytes
    content_hash: bytes
    place: Place


@dataclass(frozen=True, slots=True)
class Feedback:
    """A reviewer's word on a ticket."""

    ticket_id: str
    reviewer: str
    band: Band
    given_at: datetime
    note: str | None
    place: Place


@dataclass(slots=True)
class Intake:
    """All that was read, in the order of the files."""

    arrivals: list[Arrival] = field(default_factory=list[Arrival])
    events: list[Event] = field(default_factory=list[Event])
    feedback: list[Feedback] = field(default_factory=list[Feedback])
    not_yet_known: int = 0  # tickets and events of a time to come


class TicketReader:
    """Reads rows of tickets, and the events that a row implies by the workflow's `events`.

    What was not known by a moment is left and counted; what lies behind `now` is rejected.
    """

    def __init__(self, workflow: Workflow, now: datetime, known_by: datetime) -> None:
        self._workflow = workflow
        self._now = now
        self._known_by = known_by
        self._schema = ticket_schema(workflow)
        later = tuple(f for f in workflow.fields if f.after) + workflow.outcome_fields
        self._later = Schema(later if workflow.events else ())
        self._everything = Schema(workflow.fields + workflow.outcome_fields)
        self._sources = [_Source(workflow, source) for source in workflow.events]

    def read(self, path: Path, rejects: Rejects, intake: Intake) -> None:
        """Read one file into the intake; rows with problems go to the rejects."""
        batch: list[tuple[Arrival, Values]] = []
        for row in read_rows(path):
            read = self._read_row(row, Place(rejects, row.number), intake)
            if read is not None:
                batch.append(read)
            if len(batch) == ROWS_AT_ONCE:
                self._take(batch, intake)
                batch = []
        self._take(batch, intake)

    def _read_row(self, row: Row, place: Place, intake: Intake) -> tuple[Arrival, Values] | None:
        if row.problems:
            place.reject(*row.problems)
            return None
        submission = read_submission(self._schema, row.cells, self._workflow.ticket_id)
        later = self._later.read(row.cells)
        if isinstance(submission, tuple) or isinstance(later, tuple):
            place.reject(
                *(submission if isinstance(submission, tuple) else ()),
                *(later if isinstance(later, tuple) else ()),
            )
            return None
        as_of = submission.values[self._workflow.time]
        if as_of > self._now:
            place.reject(_at(IN_THE_FUTURE, self._workflow.time))
            return None
        if as_of > self._known_by:
            intake.not_yet_known += 1
            return None
        return Arrival(submission, as_of, place), later

    def _take(self, batch: Sequence[tuple[Arrival, Values]], intake: Intake) -> None:
        """Take tickets whose events are sound; a ticket with an unsound one is rejected whole."""
        if not self._sources or not batch:
            intake.arrivals += [arrival for arrival, _ in batch]
            return
        rows = [arrival.submission.values | later for arrival, later in batch]
        frame = self._everything.frame(rows).with_columns(
            pl.Series("as_of", [a.as_of for a, _ in batch], dtype=pl.Datetime("us", "UTC"))
        )
        implied = [source.events(frame) for source in self._sources]
        for i, (arrival, later) in enumerate(batch):
            problems = [each[i] for each in implied if isinstance(each[i], Problem)]
            if problems:
                arrival.place.reject(*(p for p in problems if isinstance(p, Problem)))
                continue
            intake.arrivals.append(arrival)
            for source, each in zip(self._sources, implied, strict=True):
                self._imply(source, arrival, later, each[i], intake)

    def _imply(
        self,
        source: _Source,
        arrival: Arrival,
        later: Values,
        given_at: datetime | Problem | None,
        intake: Intake,
    ) -> None:
        if not isinstance(given_at, datetime):
            return
        values = {name: later[name] for name in source.fields if name in later}
        if source.kind == "outcome" and not values:
            return
        if given_at > self._known_by:
            intake.not_yet_known += 1
            return
        content = source.schema.canonical(values)
        digest = hashlib.sha256(content).digest()
        ticket_id = arrival.submission.ticket_id
        intake.events.append(
            Event(ticket_id, source.kind, given_at, values, content, digest, arrival.place)
        )


class _Source:
    """One entry of the workflow's `events`, compiled."""

    def __init__(self, workflow: Workflow, source: EventSource) -> None:
        known = tuple(
            each.model_copy(update={"after": False})
            for each in workflow.fields + workflow.outcome_fields
        )
        symbols = symbols_of(known) | {"as_of": Symbol(Type.TIMESTAMP)}
        scope = Scope(symbols, workflow.calendar)
        self.kind = source.kind
        self.fields = source.fields
        self.schema = outcome_schema(workflow)
        self._known_at = compile_expression(
            source.known_at, scope, expect=frozenset({Type.TIMESTAMP})
        )
        self._when = compile_expression(
            source.when or "TRUE", scope, expect=frozenset({Type.BOOLEAN})
        )

    def events(self, frame: pl.DataFrame) -> list[datetime | Problem | None]:
        """When the event was known, a row; None where there is none; why it cannot be told."""
        frame = frame.with_columns(
            self._known_at.value.alias("_moment"), self._when.value.alias("_holds")
        )
        moments: list[datetime | Problem | None] = (
            frame.select(pl.when("_holds").then("_moment")).to_series().to_list()
        )
        for expression in (self._known_at, self._when):
            for i, code in _errors(expression, frame):
                moments[i] = Problem("events", code, f"the {self.kind} event cannot be computed")
        return moments


def _errors(expression: Expression, frame: pl.DataFrame) -> Iterator[tuple[int, str]]:
    if expression.error is None:
        return
    codes: list[str | None] = (
        frame.with_columns(expression.error.alias("_code")).get_column("_code").to_list()
    )
    for i, code in enumerate(codes):
        if code is not None:
            yield i, code


class EventReader:
    """Reads rows of events: `ticket_id`, `kind`, `known_at` and what became known.

    `kind` is outcome, closed or acted, with outcome fields beside it; or feedback, with
    `reviewer`, `band` and `note`. Moments count as they do for tickets.
    """

    def __init__(self, workflow: Workflow, now: datetime, known_by: datetime) -> None:
        zone = workflow.calendar.timezone
        self._now = now
        self._known_by = known_by
        self._column = workflow.ticket_id
        self._outcomes = outcome_schema(workflow)
        self._feedback = Schema(_FEEDBACK_FIELDS)
        self._envelope = Schema(
            (
                Field(
                    name="kind",
                    type=FieldType.CATEGORY,
                    required=True,
                    values=("outcome", "closed", "acted", "feedback"),
                ),
                Field(name="known_at", type=FieldType.TIMESTAMP, required=True, timezone=zone),
            )
        )

    def read(self, path: Path, rejects: Rejects, intake: Intake) -> None:
        """Read one file into the intake; rows with problems go to the rejects."""
        for row in read_rows(path):
            place = Place(rejects, row.number)
            problems = row.problems or self._take(row.cells, place, intake)
            if problems:
                place.reject(*problems)

    def _take(self, cells: Mapping[str, Any], place: Place, intake: Intake) -> tuple[Problem, ...]:
        envelope = self._envelope.read(cells)
        if isinstance(envelope, tuple):
            return envelope
        ticket_id = cells.get(self._column)
        if not isinstance(ticket_id, str) or not ticket_id:
            return (Problem(self._column, "missing", "is required, as text"),)
        given_at: datetime = envelope["known_at"]
        if given_at > self._now:
            return (_at(IN_THE_FUTURE, "known_at"),)
        if given_at > self._known_by:
            intake.not_yet_known += 1
            return ()
        kind: str = envelope["kind"]
        values = (self._feedback if kind == "feedback" else self._outcomes).read(cells)
        if isinstance(values, tuple):
            return values
        if kind == "feedback":
            band = Band.of(values["band"])
            reviewer, note = values["reviewer"], values.get("note")
            intake.feedback.append(Feedback(ticket_id, reviewer, band, given_at, note, place))
            return ()
        if kind == "outcome" and not values:
            return (Problem("", "empty", "holds no outcome field"),)
        content = self._outcomes.canonical(values)
        digest = hashlib.sha256(content).digest()
        intake.events.append(Event(ticket_id, kind, given_at, values, content, digest, place))
        return ()


def _at(problem: Problem, where: str) -> Problem:
    return Problem(where, problem.code, problem.message, problem.hint)
