"""Events as they are stored, read again in the order in which they were booked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import Schema, Values, outcome_schema, ticket_schema
from tiebreak.core.workflow import EventKind, Workflow
from tiebreak.errors import Conflict
from tiebreak.ingest.histories import Entities, Happening
from tiebreak.ingest.prepared import microseconds
from tiebreak.store.firsts import first_tickets
from tiebreak.store.unit import Connection

LATER = (EventKind.CLOSED, EventKind.OUTCOME)  # at one moment, closings are booked first


class FieldChanged(Conflict):
    """Two versions of a workflow mean different things by the same field."""

    code = "field_changed"


@dataclass(frozen=True, slots=True)
class Schemas:
    """The fields of several versions together, so that each finds its own."""

    ticket: Schema
    outcome: Schema

    @classmethod
    def of(cls, workflows: Sequence[Workflow]) -> Schemas:
        """The schemas of these versions; the first one's fields come first. `FieldChanged`."""
        made = [
            [schema(workflow) for workflow in workflows]
            for schema in (ticket_schema, outcome_schema)
        ]
        merged = [{f.name: f for s in reversed(each) for f in s.fields} for each in made]
        both = merged[0].keys() & merged[1].keys()
        changed = {
            name
            for each in made
            for one in each
            for other in each
            for name in one.columns.keys() & other.columns.keys()
            if one.columns[name] != other.columns[name]
        }
        if changed | both:
            names = sorted(changed | both)
            raise FieldChanged(
                f"Other versions of this workflow mean something else by: {', '.join(names)}.",
                hint="Give a field of another type another name.",
                workflow=workflows[0].name,
                fields=names,
            )
        return cls(*(Schema(tuple(each.values())) for each in merged))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What happened in a stretch of time, ready to be booked."""

    happenings: Sequence[Happening]
    entities: Mapping[str, Entities]
    events: int
    erased: int  # events that cannot be booked because their ticket is erased


async def end_of(
    conn: Connection, workflow: str, after: datetime, last: datetime, most: int
) -> datetime:
    """The time of the `most`-th event after `after`; `last` when there are fewer until then."""
    return await conn.fetchval(_END, workflow, after, last, most) or last


async def read_events(
    conn: Connection,
    plan: HistoryPlan,
    schemas: Schemas,
    after: datetime,
    until: datetime,
) -> Recorded:
    """All events with `after` < time <= `until` on the entities of their first revisions."""
    name = plan.workflow.name
    tickets = await conn.fetch(_TICKETS, name, after, until)
    told = await conn.fetch(_TOLD, name, after, until)
    arrived = [row for row in tickets if row["content"] is not None]
    values = [schemas.ticket.load(row["content"].encode()) for row in arrived]
    firsts: dict[str, Values] = {
        row["ticket_id"]: each
        for row, each in zip(arrived, values, strict=True)
        if row["revision"] == 1
    }
    missing = {row["ticket_id"] for row in (*arrived, *told)} - firsts.keys()
    firsts |= await first_tickets(conn, name, missing, schemas.ticket)
    later = [row for row in told if row["content"] is not None and row["ticket_id"] in firsts]
    owners = _Owners.of(plan, schemas.ticket, firsts)
    happenings = [
        owners.happening(
            EventKind.ARRIVED,
            schemas.ticket.frame(values),
            arrived,
            np.array([row["revision"] == 1 for row in arrived], dtype=np.bool_),
        )
    ]
    for kind in LATER:
        rows = [row for row in later if row["kind"] == kind.value]
        if rows:
            content = [schemas.outcome.load(row["content"].encode()) for row in rows]
            frame = pl.concat(
                [
                    schemas.ticket.frame([firsts[row["ticket_id"]] for row in rows]),
                    schemas.outcome.frame(content),
                ],
                how="horizontal",
            )
            is_first = np.array([row["is_first"] for row in rows], dtype=np.bool_)
            happenings.append(owners.happening(kind, frame, rows, is_first))
    erased = len(tickets) - len(arrived) + len(told) - len(later)
    return Recorded(happenings, owners.entities, len(arrived) + len(later), erased)


@dataclass(frozen=True, slots=True)
class _Owners:
    """The entities of tickets by what their first revisions say."""

    entities: Mapping[str, Entities]
    codes: Mapping[str, np.ndarray[Any, np.dtype[np.int64]]]  # one a first revision, last: none
    rows: Mapping[str, int]

    @classmethod
    def of(cls, plan: HistoryPlan, schema: Schema, firsts: Mapping[str, Values]) -> _Owners:
        texts = plan.entity_texts(schema.frame(list(firsts.values())))
        entities = {name: Entities() for name in plan.slots}
        codes = {name: entities[name].codes([*texts[name], None]) for name in plan.slots}
        return cls(entities, codes, {ticket_id: row for row, ticket_id in enumerate(firsts)})

    def happening(
        self,
        kind: EventKind,
        frame: pl.DataFrame,
        rows: Sequence[Mapping[str, Any]],
        is_first: np.ndarray[Any, np.dtype[np.bool_]],
    ) -> Happening:
        owners = np.array([self.rows.get(row["ticket_id"], -1) for row in rows], dtype=np.intp)
        codes = {name: column[owners] for name, column in self.codes.items()}
        times = microseconds([row["known_at"] for row in rows])
        return Happening(kind, frame, times, is_first, codes)


_END = """
    SELECT known_at FROM (
        (SELECT as_of AS known_at FROM tickets
         WHERE workflow = $1 AND as_of > $2 AND as_of <= $3 ORDER BY as_of LIMIT $4)
        UNION ALL
        (SELECT known_at FROM outcomes
         WHERE workflow = $1 AND known_at > $2 AND known_at <= $3 ORDER BY known_at LIMIT $4)
    ) AS event
    ORDER BY known_at OFFSET $4 - 1 LIMIT 1
"""

# What shares a moment was written by one unit, in the order in which it was booked.
_TICKETS = """
    SELECT as_of AS known_at, ticket_id, revision, content FROM tickets
    WHERE workflow = $1 AND as_of > $2 AND as_of <= $3
    ORDER BY as_of, lane, seal_seq, seal_position
"""

_TOLD = """
    SELECT o.known_at, o.ticket_id, o.kind, o.content, NOT EXISTS (
        SELECT FROM outcomes e
        WHERE e.workflow = o.workflow AND e.ticket_id = o.ticket_id AND e.kind = o.kind
          AND e.ordinal < o.ordinal) AS is_first
    FROM outcomes o
    WHERE o.workflow = $1 AND o.known_at > $2 AND o.known_at <= $3
      AND o.kind IN ('closed', 'outcome')
    ORDER BY o.known_at, o.lane, o.seal_seq, o.seal_position
"""
