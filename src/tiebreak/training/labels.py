"""Labels: what became of tickets, as far as it was known by a moment and is mature."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ARRAY, Text, any_, literal, select

from tiebreak.core.expressions import Type, compile_expression
from tiebreak.core.scopes import event_scope
from tiebreak.core.tickets import outcome_schema
from tiebreak.core.workflow import EventKind, Workflow
from tiebreak.errors import InvalidInput
from tiebreak.store import tables
from tiebreak.store.database import Database

CHUNK = 10_000


class NoLabel(InvalidInput):
    """The workflow defines no label, so there is nothing to learn."""

    code = "no_label"


@dataclass(frozen=True, slots=True)
class KnownLabel:
    """Whether a ticket ended badly, and since when that was known."""

    value: bool
    known_at: datetime


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a workflow's tickets as they were known by a moment.

    A label counts when the maturity window has passed, for either class; a ticket without an
    outcome is then what the workflow says of it, or it has no label.
    """

    told: Mapping[str, KnownLabel]
    maturity: timedelta
    absent: Literal["negative", "positive", "unknown"]
    known_by: datetime

    @property
    def mature_before(self) -> datetime:
        """Tickets with an `as_of` after this have no mature label."""
        return self.known_by - self.maturity

    def of(self, ticket_id: str, as_of: datetime) -> KnownLabel | None:
        """The mature label of a ticket, None where there is none."""
        mature_at = as_of + self.maturity
        if mature_at > self.known_by:
            return None
        told = self.told.get(ticket_id)
        if told is not None:
            return KnownLabel(told.value, max(told.known_at, mature_at))
        if self.absent == "unknown":
            return None
        return KnownLabel(self.absent == "positive", mature_at)


async def read_labels(
    db: Database,
    workflow: Workflow,
    *,
    known_by: datetime,
    ticket_ids: Collection[str] | None = None,
) -> Labels:
    """The labels known by a moment, of all tickets or of these; the newest of a ticket counts.

    Raises `NoLabel`.
    """
    label = workflow.label
    if label is None:
        raise NoLabel(hint="Add `label` to workflow.yaml and load it.", workflow=workflow.name)
    scope = event_scope(workflow, EventKind.OUTCOME)
    expression = compile_expression(label.sql, scope, expect=frozenset({Type.BOOLEAN}))
    schema = outcome_schema(workflow)
    c = tables.outcomes.c
    query = (
        select(c.ticket_id, c.known_at, c.content)
        .where(
            c.workflow == workflow.name,
            c.kind == EventKind.OUTCOME.value,
            c.known_at <= known_by,
            c.content.is_not(None),
        )
        .order_by(c.ticket_id, c.ordinal)
    )
    if ticket_ids is not None:
        query = query.where(c.ticket_id == any_(literal(list(ticket_ids), ARRAY(Text))))
    told: dict[str, KnownLabel] = {}
    async with db.read() as conn:
        result = await conn.stream(query)
        async for rows in result.partitions(CHUNK):
            frame = schema.frame([schema.load(content.encode()) for _, _, content in rows])
            values = frame.select(expression.value.alias("label")).to_series().to_list()
            for (ticket_id, known_at, _), value in zip(rows, values, strict=True):
                if value is not None:
                    told[ticket_id] = KnownLabel(value, known_at)
    return Labels(told, timedelta(days=label.maturity_days), label.absent, known_by)
