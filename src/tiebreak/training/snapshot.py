"""The data set of a training run, read from the store: features as served, labels as known."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from sqlalchemy import select

from tiebreak.core.expressions import Type, compile_expression
from tiebreak.core.features import FeaturePlan
from tiebreak.core.history import event_scope
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import Schema, outcome_schema, ticket_schema
from tiebreak.core.workflow import EventKind, Label, Workflow
from tiebreak.errors import InvalidInput
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.training.dataset import Snapshot

CHUNK = 10_000


class NoLabel(InvalidInput):
    """The workflow defines no label, so there is nothing to learn."""

    code = "no_label"


class NoTrainingTickets(InvalidInput):
    """No ticket has a mature label."""

    code = "no_training_tickets"


async def read_snapshot(db: Database, workflow: Workflow, *, known_by: datetime) -> Snapshot:
    """The newest revision of every ticket that has a mature label at `known_by`.

    Features come from the stored `as_of` and context through the one implementation that serves.
    A label counts when the maturity window has passed by `known_by`, for either class, and only
    outcomes known by then are read. Raises `NoLabel` and `NoTrainingTickets`.
    """
    label = workflow.label
    if label is None:
        raise NoLabel(hint="Add `label` to workflow.yaml and load it.", workflow=workflow.name)
    labels = await _labels(db, workflow, label, known_by)
    plan, schema = FeaturePlan(workflow), ticket_schema(workflow)
    digest = hashlib.sha256()
    frames: list[pl.DataFrame] = []
    mature_before = known_by - timedelta(days=label.maturity_days)
    async for rows in _ticket_chunks(db, workflow.name, mature_before):
        known = [row for row in rows if labels.get(row["ticket_id"], label.absent) != "unknown"]
        if not known:
            continue
        truth = [labels.get(row["ticket_id"], label.absent) is True for row in known]
        for row, is_positive in zip(known, truth, strict=True):
            parts = (row["ticket_id"], row["revision"], row["content"], row["context"], is_positive)
            digest.update(repr(parts).encode())
        frames.append(_features(known, plan, schema).with_columns(pl.Series("label", truth)))
    if not frames:
        raise NoTrainingTickets(
            hint="Import tickets with outcomes, or choose a later --known-by.",
            workflow=workflow.name,
        )
    whole = pl.concat(frames)
    return Snapshot(
        workflow=workflow,
        frame=whole.drop("label"),
        label=whole["label"],
        as_of=whole["as_of"],
        data_hash=digest.hexdigest(),
    )


def _features(rows: Sequence[Mapping[str, Any]], plan: FeaturePlan, schema: Schema) -> pl.DataFrame:
    tickets = [StoredTicket.from_row(row, schema) for row in rows]
    frame, context = columns(tickets, schema, plan.history.context_columns)
    features, _ = plan.columns(frame, context)
    return features.select("as_of", *plan.names)


async def _ticket_chunks(
    db: Database, workflow: str, before: datetime
) -> AsyncGenerator[list[dict[str, Any]]]:
    """The newest revisions of tickets with content, in `as_of` order, by keyset."""
    t, newer = tables.tickets, tables.ticket_keys.alias("newer")
    has_newer = (
        select(newer.c.revision)
        .where(
            newer.c.workflow == t.c.workflow,
            newer.c.ticket_id == t.c.ticket_id,
            newer.c.revision > t.c.revision,
        )
        .exists()
    )
    query = (
        select(t)
        .where(t.c.workflow == workflow, t.c.as_of <= before, t.c.content.is_not(None), ~has_newer)
        .order_by(t.c.as_of, t.c.ticket_id)
    )
    async with db.read() as conn:
        result = await conn.stream(query)
        async for partition in result.mappings().partitions(CHUNK):
            yield [dict(row) for row in partition]


async def _labels(
    db: Database, workflow: Workflow, label: Label, known_by: datetime
) -> dict[str, bool]:
    """The newest label of each ticket known by then; outcomes that say nothing are passed over."""
    scope = event_scope(workflow, EventKind.OUTCOME)
    expression = compile_expression(label.sql, scope, expect=frozenset({Type.BOOLEAN}))
    schema = outcome_schema(workflow)
    outcomes = tables.outcomes
    query = (
        select(outcomes.c.ticket_id, outcomes.c.content)
        .where(
            outcomes.c.workflow == workflow.name,
            outcomes.c.kind == EventKind.OUTCOME.value,
            outcomes.c.known_at <= known_by,
            outcomes.c.content.is_not(None),
        )
        .order_by(outcomes.c.ticket_id, outcomes.c.ordinal)
    )
    found: dict[str, bool] = {}
    async with db.read() as conn:
        result = await conn.stream(query)
        async for partition in result.partitions(CHUNK):
            frame = schema.frame([schema.load(content.encode()) for _, content in partition])
            values = frame.select(expression.value.alias("label")).to_series().to_list()
            for (ticket_id, _), value in zip(partition, values, strict=True):
                if value is not None:
                    found[ticket_id] = value
    return found
