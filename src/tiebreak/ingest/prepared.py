"""Everything an import will write, computed whole: rows of tickets, events and the history log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import Schema, outcome_schema
from tiebreak.core.totals import Flags, Ints
from tiebreak.core.workflow import EventKind, Workflow
from tiebreak.ingest.histories import Entities, Happening, Log, contexts, new_rows
from tiebreak.ingest.timeline import NewEvent, NewFeedback, NewTicket, Timeline


@dataclass(frozen=True, slots=True)
class Prepared:
    """New records in time order, the context of each ticket, and the new rows of the log."""

    tickets: Sequence[NewTicket]
    context: pl.DataFrame  # one row a ticket
    events: Sequence[NewEvent]
    feedback: Sequence[NewFeedback]
    entities: Mapping[str, Entities]
    log: Mapping[str, Log]


@dataclass(frozen=True, slots=True)
class Subjects:
    """All tickets that are new or that something new is about, as columns."""

    frame: pl.DataFrame  # the new tickets in their order, then first revisions that are stored
    first_row: Mapping[str, int]  # of each ticket's first revision
    entities: Mapping[str, Entities]
    codes: Mapping[str, Ints]

    @classmethod
    def of(cls, timeline: Timeline, plan: HistoryPlan, schema: Schema) -> Subjects:
        """The subjects of a timeline."""
        first_row = {
            new.arrival.submission.ticket_id: row
            for row, new in enumerate(timeline.tickets)
            if new.revision == 1
        }
        values = [new.arrival.submission.values for new in timeline.tickets]
        for ticket_id, first in timeline.firsts.items():
            if ticket_id not in first_row:
                first_row[ticket_id] = len(values)
                values.append(first)
        frame = schema.frame(values)
        entities = {name: Entities() for name in plan.slots}
        codes = {
            name: entities[name].codes(texts) for name, texts in plan.entity_texts(frame).items()
        }
        return cls(frame, first_row, entities, codes)

    def happening(
        self, kind: EventKind, frame: pl.DataFrame, times: Ints, is_first: Flags, booked_on: Ints
    ) -> Happening:
        """Events booked on the entities of the first revisions in the rows `booked_on`."""
        codes = {name: codes[booked_on] for name, codes in self.codes.items()}
        return Happening(kind, frame, times, is_first, codes)

    def firsts(self, ticket_ids: Sequence[str]) -> Ints:
        """The rows of the first revisions of these tickets."""
        return np.array([self.first_row[each] for each in ticket_ids], dtype=np.int64)


def compute(
    workflow: Workflow,
    plan: HistoryPlan,
    timeline: Timeline,
    subjects: Subjects,
    earlier: Mapping[str, Log],
) -> Prepared:
    """Running totals and contexts of all new records. Raises `HistoryOverflow`."""
    count = len(timeline.tickets)
    as_of = microseconds([new.time for new in timeline.tickets])
    outcomes = outcome_schema(workflow)
    happenings = [_arrivals(timeline, subjects, as_of)]
    for kind in (EventKind.CLOSED, EventKind.OUTCOME):
        events = [new for new in timeline.events if new.event.kind == kind.value]
        if events:
            happenings.append(_events(kind, events, subjects, outcomes))
    added = new_rows(plan, happenings, earlier)
    whole = {name: log.after(earlier[name]) for name, log in added.items()}
    own = {name: codes[:count] for name, codes in subjects.codes.items()}
    return Prepared(
        tickets=timeline.tickets,
        context=contexts(plan, as_of, own, whole),
        events=timeline.events,
        feedback=timeline.feedback,
        entities=subjects.entities,
        log=added,
    )


def _arrivals(timeline: Timeline, subjects: Subjects, as_of: Ints) -> Happening:
    is_first = np.array([new.revision == 1 for new in timeline.tickets], dtype=np.bool_)
    booked_on = subjects.firsts([new.arrival.submission.ticket_id for new in timeline.tickets])
    frame = subjects.frame[: len(timeline.tickets)]
    return subjects.happening(EventKind.ARRIVED, frame, as_of, is_first, booked_on)


def _events(
    kind: EventKind, events: Sequence[NewEvent], subjects: Subjects, outcomes: Schema
) -> Happening:
    rows = subjects.firsts([new.event.ticket_id for new in events])
    known = outcomes.frame([new.event.values for new in events])
    frame = subjects.frame[rows].hstack(known)
    is_first = np.array([new.is_first for new in events], dtype=np.bool_)
    times = microseconds([new.known_at for new in events])
    return subjects.happening(kind, frame, times, is_first, rows)


def microseconds(moments: Sequence[datetime]) -> Ints:
    """Microseconds since 1970, int64 of shape (n,)."""
    return pl.Series(moments, dtype=pl.Datetime("us", "UTC")).dt.epoch("us").to_numpy()
