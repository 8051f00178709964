"""The data set of a training run, read from the store: features as served, labels as known."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import polars as pl
from sqlalchemy import select

from tiebreak.core.features import FeaturePlan
from tiebreak.core.history import HistoryPlan
from tiebreak.core.rules import RulesPlan
from tiebreak.core.stored import Columns, StoredTicket, columns
from tiebreak.core.tickets import Schema, ticket_schema
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.errors import InvalidInput
from tiebreak.store import tables
from tiebreak.store.contexts import complete
from tiebreak.store.database import Database
from tiebreak.store.kept import Kept, kept
from tiebreak.store.unit import Connection
from tiebreak.training import dataset
from tiebreak.training.dataset import Origin, Snapshot
from tiebreak.training.kept_snapshots import content_hash, table_of
from tiebreak.training.labels import Labels, read_labels
from tiebreak.training.likeness import MOST, Likeness, decided
from tiebreak.workflows import versions

CHUNK = 10_000
MOMENT = pl.Datetime("us", "UTC")


class NoTrainingTickets(InvalidInput):
    """No ticket has a mature label."""

    code = "no_training_tickets"


async def read_snapshot(
    db: Database,
    workflow: Workflow,
    *,
    known_by: datetime,
    entity_secret: bytes,
    rules: RuleSet | None = None,
) -> Snapshot:
    """What was at `known_by` the newest revision of every ticket that had a mature label then.

    Features come from the stored `as_of` and context through the one implementation that serves;
    context that a ticket was not given, because its policy did not read it, comes from the log.
    A label counts when the maturity window has passed by `known_by`, for either class, and only
    outcomes known by then are read. A revision made after the outcome was known is left out: its
    fields may tell it. Beside the features stands what `rules` (None: those stored with this
    version of the workflow) say of each ticket. Raises `NoLabel`, `NoTrainingTickets`,
    `UnknownWorkflow` and `HistoryNotReady`.
    """
    labels = await read_labels(db, workflow, known_by=known_by)
    if rules is None:
        rules = (await versions.addressed(db, workflow.name, workflow.version)).rules
    async with db.connection() as conn:
        log = await kept(conn, workflow.name, HistoryPlan(workflow))
    plan = FeaturePlan(workflow)
    read = _Reader(
        db,
        plan,
        RulesPlan(rules, plan, workflow.knobs.points),
        ticket_schema(workflow),
        log,
        entity_secret,
        known_by,
    )
    frames: list[pl.DataFrame] = []
    told_after = 0
    async for rows in _ticket_chunks(db, workflow.name, labels):
        told = [(row, labels.of(row["ticket_id"], row["as_of"])) for row in rows]
        mature = [(row, label) for row, label in told if label is not None]
        known = [(row, label) for row, label in mature if not _is_told(row, labels)]
        told_after += len(mature) - len(known)
        if not known:
            continue
        truth = pl.Series("label", [label.value for _, label in known], dtype=pl.Boolean)
        weights = pl.Series("#weight", [label.weight for _, label in known], dtype=pl.Float64)
        known_at = pl.Series("known_at", [label.known_at for _, label in known], dtype=MOMENT)
        features = await read.features([row for row, _ in known])
        frames.append(features.with_columns(truth, weights, known_at))
    if not frames:
        raise NoTrainingTickets(
            hint="Import tickets with outcomes, or choose a later --known-by.",
            workflow=workflow.name,
        )
    whole = pl.concat(frames)
    snapshot = Snapshot(
        workflow=workflow,
        frame=whole.drop("label", "#weight", "known_at"),
        label=whole["label"],
        as_of=whole["as_of"],
        known_at=whole["known_at"],
        data_hash="",
        weights=whole["#weight"],
        origin=Origin(
            known_by=known_by,
            rules_version=rules.version,
            compared=read.likeness.compared,
            unlike_serving=dict(sorted(read.likeness.differing.items())),
            left_out={"revised_after_outcome": told_after} if told_after else {},
        ),
    )
    return replace(
        snapshot,
        data_hash=content_hash(table_of(snapshot), workflow.version, rules.version),
    )


async def read_again(
    db: Database, manifest: Mapping[str, Any], *, entity_secret: bytes
) -> Snapshot:
    """The snapshot that a manifest describes, read anew.

    Its hash is the same unless a ticket was erased since, something of before `known_by` was
    imported since, or other code reads otherwise. Raises what `read_snapshot` raises.
    """
    name, wanted = manifest["workflow"], (manifest["workflow_version"], manifest["rules_version"])
    for version in await versions.versions_of(db, name):
        if (version.workflow_version, version.rules_version) == wanted:
            stored = await versions.get(db, name, version.ordinal)
            break
    else:
        stored = await versions.addressed(db, name, wanted[0])
    return await read_snapshot(
        db,
        stored.workflow,
        known_by=datetime.fromisoformat(manifest["known_by"]),
        entity_secret=entity_secret,
        rules=stored.rules,
    )


def _is_told(row: Mapping[str, Any], labels: Labels) -> bool:
    """Whether this is a correction that came when the outcome was known."""
    told = labels.told.get(row["ticket_id"])
    return row["revision"] > 1 and told is not None and told.known_at < row["as_of"]


@dataclass(frozen=True, slots=True)
class _Reader:
    db: Database
    plan: FeaturePlan
    rules: RulesPlan
    schema: Schema
    log: Kept
    entity_secret: bytes
    known_by: datetime
    likeness: Likeness = field(default_factory=Likeness)

    async def features(self, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        """What the snapshot holds of tickets; the decided ones among them are compared."""
        async with self.db.connection() as conn:
            fired = await decided(conn, rows, by=self.known_by)
            is_decided = [(row["ticket_id"], row["revision"]) in fired for row in rows]
            given = await self._given(conn, rows, is_context_given=True)
            whole, verdict = self.rules.evaluate(*given)
            some = [place for place, told in enumerate(is_decided) if told][:MOST]
            if some:
                chosen = [rows[place] for place in some]
                given = await self._given(conn, chosen, is_context_given=False)
                anew, _ = self.plan.columns(*given)
                told = [fired[row["ticket_id"], row["revision"]] for row in chosen]
                self.likeness.count(self.plan.names, whole[some], anew, told)
        slices = self.plan.workflow.slices
        return whole.select(
            "as_of",
            *self.plan.names,
            *(pl.col(name).alias(f"{dataset.SLICE}{name}") for name in slices),
            pl.Series(dataset.TICKET_ID, [row["ticket_id"] for row in rows], dtype=pl.String),
            pl.Series(dataset.REVISION, [row["revision"] for row in rows], dtype=pl.Int64),
            pl.Series(dataset.IS_DECIDED, is_decided, dtype=pl.Boolean),
            pl.Series(dataset.RULES_POINTS, verdict.points, dtype=pl.Int64),
            pl.Series(dataset.RULES_BAND, verdict.band, dtype=pl.Int8),
        )

    async def _given(
        self, conn: Connection, rows: Sequence[Mapping[str, Any]], *, is_context_given: bool
    ) -> Columns:
        """Fields and context, as it was given or by what the log holds."""
        tickets = [StoredTicket.from_row(row, self.schema) for row in rows]
        frame, context = columns(tickets, self.schema, self.plan.history.context_columns)
        if not is_context_given:
            context = context.clear(frame.height)
        return frame, await complete(conn, self.log, frame, context, self.entity_secret)


async def _ticket_chunks(
    db: Database, workflow: str, labels: Labels
) -> AsyncGenerator[list[dict[str, Any]]]:
    """The tickets' newest revisions of when labels were known, in `as_of` order, if mature."""
    t, newer = tables.tickets, tables.ticket_keys.alias("newer")
    has_newer = (
        select(newer.c.revision)
        .where(
            newer.c.workflow == t.c.workflow,
            newer.c.ticket_id == t.c.ticket_id,
            newer.c.revision > t.c.revision,
            newer.c.as_of <= labels.known_by,  # a later correction changes no earlier snapshot
        )
        .exists()
    )
    query = (
        select(t)
        .where(
            t.c.workflow == workflow,
            t.c.as_of <= labels.mature_before,
            t.c.content.is_not(None),
            ~has_newer,
        )
        .order_by(t.c.as_of, t.c.ticket_id)
    )
    async with db.read() as conn:
        result = await conn.stream(query)
        async for partition in result.mappings().partitions(CHUNK):
            yield [dict(row) for row in partition]
