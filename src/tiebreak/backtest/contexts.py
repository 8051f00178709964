"""Context of a changed history: stored where it holds all that is read, else computed anew.

A policy whose history features differ reads totals that admission never stored. They are computed
from the stored tickets and outcomes in time order, by the arithmetic that imports use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import Select, func, select

from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import Schema, outcome_schema, ticket_schema
from tiebreak.core.totals import Ints
from tiebreak.core.workflow import EventKind, Workflow
from tiebreak.ingest.histories import Entities, Happening, Log, contexts, new_rows
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.workflows import versions

BATCH = 20_000


@dataclass(frozen=True, slots=True)
class Recomputed:
    """The context of every ticket revision, with `ticket_id`, `revision`, `as_of`, in time order.

    What erased tickets brought to the history is missing: their number is `erased`.
    """

    frame: pl.DataFrame
    erased: int


async def holds_all(db: Database, workflow: Workflow) -> bool:
    """Whether stored context holds every column that this version of the workflow reads.

    Versions that read the slots which history was collected for may have admitted tickets; what
    each of them stored must do.
    """
    needed = set(HistoryPlan(workflow).context_columns)
    collected = await _collected(db, workflow.name)
    stored: list[set[str]] = []
    for version in await versions.versions_of(db, workflow.name):
        plan = HistoryPlan((await versions.get(db, workflow.name, version.ordinal)).workflow)
        if {slot.id for slots in plan.slots.values() for slot in slots} == collected:
            stored.append(set(plan.context_columns))
    return not needed or (bool(stored) and all(needed <= columns for columns in stored))


async def recompute(db: Database, workflow: Workflow, *, until: datetime) -> Recomputed:
    """The context that admission would have stored, had this version been there from the start.

    Reads all history before `until`. Raises `HistoryOverflow`.
    """
    plan = HistoryPlan(workflow)
    tickets = await _tickets(db, workflow, plan, until)
    frame = tickets.drop(*_OWN)
    codes = {name: Entities().codes(texts) for name, texts in plan.entity_texts(frame).items()}
    first = _first_rows(tickets)
    booked_on = tickets.join(first, on="ticket_id", how="left", maintain_order="left")["row"]
    times = tickets["as_of"].dt.epoch("us").to_numpy()
    is_first = (tickets["revision"] == 1).to_numpy()
    happenings = [Happening(EventKind.ARRIVED, frame, times, is_first, _booked(codes, booked_on))]
    for kind in (EventKind.CLOSED, EventKind.OUTCOME):
        events = await _events(db, workflow, plan, kind, until)
        events = events.join(first, on="ticket_id", how="inner", maintain_order="left")
        happenings.append(
            Happening(
                kind,
                frame[events["row"]].hstack(events.drop(*_OF_EVENT, "row").get_columns()),
                events["known_at"].dt.epoch("us").to_numpy(),
                events["is_first"].to_numpy(),
                _booked(codes, events["row"]),
            )
        )
    nothing = {name: Log.empty(slots) for name, slots in plan.slots.items()}
    found = contexts(plan, times, codes, new_rows(plan, happenings, nothing))
    own = tickets.select(_OWN)
    return Recomputed(own.hstack(found.get_columns()), await _erased(db, workflow.name, until))


_OWN = ("ticket_id", "revision", "as_of")
_OF_EVENT = ("ticket_id", "known_at", "is_first")


def _first_rows(tickets: pl.DataFrame) -> pl.DataFrame:
    """The row of each ticket's first revision."""
    numbered = tickets.select("ticket_id", "revision").with_row_index("row")
    return numbered.filter(pl.col("revision") == 1).select(
        "ticket_id", pl.col("row").cast(pl.Int64)
    )


def _booked(codes: dict[str, Ints], rows: pl.Series) -> dict[str, Ints]:
    """The entities of the tickets in these rows; nobody where there is no row."""
    known = rows.is_not_null().to_numpy()
    places = rows.fill_null(0).to_numpy()
    return {name: np.where(known, own[places], -1) for name, own in codes.items()}


def _schema(schema: Schema, plan: HistoryPlan) -> Schema:
    """The fields that the history reads, which spares memory for all others."""
    names = plan.field_names()
    return Schema(tuple(field for field in schema.fields if field.name in names))


async def _tickets(
    db: Database, workflow: Workflow, plan: HistoryPlan, until: datetime
) -> pl.DataFrame:
    schema = _schema(ticket_schema(workflow), plan)
    t = tables.tickets.c
    query = (
        select(t.ticket_id, t.revision, t.as_of, t.content)
        .where(t.workflow == workflow.name, t.as_of < until, t.content.is_not(None))
        .order_by(t.as_of, t.ticket_id)
    )
    types = {"ticket_id": pl.String, "revision": pl.Int64, "as_of": pl.Datetime("us", "UTC")}
    return await _read(db, query, types, schema)


async def _events(
    db: Database, workflow: Workflow, plan: HistoryPlan, kind: EventKind, until: datetime
) -> pl.DataFrame:
    schema = _schema(outcome_schema(workflow), plan)
    o = tables.outcomes.c
    ordinal = func.row_number().over(partition_by=o.ticket_id, order_by=o.ordinal)
    query = (
        select(o.ticket_id, o.known_at, (ordinal == 1).label("is_first"), o.content)
        .where(
            o.workflow == workflow.name,
            o.kind == kind.value,
            o.known_at < until,
            o.content.is_not(None),
        )
        .order_by(o.known_at, o.ticket_id)
    )
    types = {"ticket_id": pl.String, "known_at": pl.Datetime("us", "UTC"), "is_first": pl.Boolean}
    return await _read(db, query, types, schema)


async def _read(
    db: Database, query: Select[*tuple[Any, ...]], types: Mapping[str, Any], schema: Schema
) -> pl.DataFrame:
    """The columns of `types` and, from the last column, the fields of the schema."""
    names = list(types)
    frames = [pl.DataFrame(schema=types).hstack(schema.load_frame([]).get_columns())]
    async with db.read() as conn:
        result = await conn.stream(query, execution_options={"yield_per": BATCH})
        async for rows in result.partitions(BATCH):
            own = pl.DataFrame([row[:-1] for row in rows], schema=types, orient="row")
            fields = schema.load_frame([row[-1] for row in rows])
            frames.append(own.select(names).hstack(fields.get_columns()))
    return pl.concat(frames)


async def _collected(db: Database, workflow: str) -> set[str]:
    """The slots that the current history log keeps."""
    s, c = tables.history_slots.c, tables.workflow_clocks.c
    query = select(s.slot).where(
        s.workflow == workflow, c.workflow == workflow, s.generation == c.history_generation
    )
    async with db.read() as conn:
        return set((await conn.execute(query)).scalars())


async def _erased(db: Database, workflow: str, until: datetime) -> int:
    t = tables.tickets.c
    query = select(func.count()).where(t.workflow == workflow, t.as_of < until, t.content.is_(None))
    async with db.read() as conn:
        return (await conn.execute(query)).scalar_one()
