"""The data set of a training run, read from the store: features as served, labels as known."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl
from sqlalchemy import select

from tiebreak.core.features import FeaturePlan
from tiebreak.core.history import HistoryPlan
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import Schema, ticket_schema
from tiebreak.core.workflow import Workflow
from tiebreak.errors import InvalidInput
from tiebreak.store import tables
from tiebreak.store.contexts import complete
from tiebreak.store.database import Database
from tiebreak.store.kept import Kept, kept
from tiebreak.training.dataset import Snapshot
from tiebreak.training.labels import read_labels

CHUNK = 10_000
MOMENT = pl.Datetime("us", "UTC")


class NoTrainingTickets(InvalidInput):
    """No ticket has a mature label."""

    code = "no_training_tickets"


async def read_snapshot(
    db: Database, workflow: Workflow, *, known_by: datetime, entity_secret: bytes
) -> Snapshot:
    """The newest revision of every ticket that has a mature label at `known_by`.

    Features come from the stored `as_of` and context through the one implementation that serves;
    context that a ticket was not given, because its policy did not read it, comes from the log.
    A label counts when the maturity window has passed by `known_by`, for either class, and only
    outcomes known by then are read. Raises `NoLabel`, `NoTrainingTickets` and `HistoryNotReady`.
    """
    labels = await read_labels(db, workflow, known_by=known_by)
    async with db.connection() as conn:
        log = await kept(conn, workflow.name, HistoryPlan(workflow))
    read = _Reader(db, FeaturePlan(workflow), ticket_schema(workflow), log, entity_secret)
    digest = hashlib.sha256()
    frames: list[pl.DataFrame] = []
    async for rows in _ticket_chunks(db, workflow.name, labels.mature_before):
        told = [(row, labels.of(row["ticket_id"], row["as_of"])) for row in rows]
        known = [(row, label) for row, label in told if label is not None]
        if not known:
            continue
        for row, label in known:
            parts = (row["ticket_id"], row["revision"], row["content"], row["context"], label)
            digest.update(repr(parts if label.weight == 1.0 else (*parts, label.weight)).encode())
        truth = pl.Series("label", [label.value for _, label in known], dtype=pl.Boolean)
        weights = pl.Series("#weight", [label.weight for _, label in known], dtype=pl.Float64)
        known_at = pl.Series("known_at", [label.known_at for _, label in known], dtype=MOMENT)
        features, filled = await read.features([row for row, _ in known])
        digest.update(filled)
        frames.append(features.with_columns(truth, weights, known_at))
    if not frames:
        raise NoTrainingTickets(
            hint="Import tickets with outcomes, or choose a later --known-by.",
            workflow=workflow.name,
        )
    whole = pl.concat(frames)
    return Snapshot(
        workflow=workflow,
        frame=whole.drop("label", "#weight", "known_at"),
        label=whole["label"],
        as_of=whole["as_of"],
        known_at=whole["known_at"],
        data_hash=digest.hexdigest(),
        weights=whole["#weight"],
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    db: Database
    plan: FeaturePlan
    schema: Schema
    log: Kept
    entity_secret: bytes

    async def features(self, rows: Sequence[Mapping[str, Any]]) -> tuple[pl.DataFrame, bytes]:
        """The features of tickets, and for the data's hash what was read beyond their rows."""
        tickets = [StoredTicket.from_row(row, self.schema) for row in rows]
        frame, given = columns(tickets, self.schema, self.plan.history.context_columns)
        async with self.db.connection() as conn:
            context = await complete(conn, self.log, frame, given, self.entity_secret)
        filled = b"" if context.equals(given) else repr(context.rows()).encode()
        features, _ = self.plan.columns(frame, context)
        return features.select("as_of", *self.plan.names), filled


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
