"""Labels: what became of tickets, as far as it was known by a moment and is mature.

Who is believed first, what happened or who reviewed, is the workflow's `label.precedence`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import ARRAY, Text, any_, literal, select

from tiebreak.core.expressions import Type, compile_expression
from tiebreak.core.scopes import event_scope
from tiebreak.core.tickets import outcome_schema
from tiebreak.core.workflow import EventKind, Label, LabelSource, Workflow
from tiebreak.errors import InvalidInput
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.training.reviews import read_verdicts, read_weights

CHUNK = 10_000


class NoLabel(InvalidInput):
    """The workflow defines no label, so there is nothing to learn."""

    code = "no_label"


@dataclass(frozen=True, slots=True)
class KnownLabel:
    """Whether a ticket ended badly, since when that was known, and how much it counts."""

    value: bool
    known_at: datetime
    weight: float = field(default=1.0, repr=False)


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
            return replace(told, known_at=max(told.known_at, mature_at))
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
    """The labels known by a moment, of all tickets or of these; the newest of a kind counts.

    A label by reviews counts by the inverse of the probability of that review. Raises `NoLabel`.
    """
    label = workflow.label
    if label is None:
        raise NoLabel(hint="Add `label` to workflow.yaml and load it.", workflow=workflow.name)
    told: dict[str, KnownLabel] = {}
    if label.precedence != ("outcome",):
        reviewed = await _reviewed(db, workflow.name, label, known_by, ticket_ids)
    else:
        reviewed = {}
    for source in reversed(label.precedence):
        if source == "outcome":
            told |= await _outcomes(db, workflow, label, known_by, ticket_ids)
        else:
            told |= reviewed[source]
    absent = label.absent if "outcome" in label.precedence else "unknown"
    return Labels(told, timedelta(days=label.maturity_days), absent, known_by)


async def _reviewed(
    db: Database,
    workflow: str,
    label: Label,
    known_by: datetime,
    ticket_ids: Collection[str] | None,
) -> dict[LabelSource, dict[str, KnownLabel]]:
    """The labels that reviews give, adjudicated ones and those of one reviewer apart."""
    verdicts = await read_verdicts(
        db, workflow, known_by=known_by, review_from=label.review_from, ticket_ids=ticket_ids
    )
    weights = await read_weights(db, workflow, known_by=known_by, ticket_ids=ticket_ids)
    found: dict[LabelSource, dict[str, KnownLabel]] = {"adjudicated": {}, "review": {}}
    for ticket_id, verdict in verdicts.items():
        source: LabelSource = "adjudicated" if verdict.is_adjudicated else "review"
        weight = weights.get(ticket_id, 1.0)
        found[source][ticket_id] = KnownLabel(verdict.value, verdict.known_at, weight)
    return found


async def _outcomes(
    db: Database,
    workflow: Workflow,
    label: Label,
    known_by: datetime,
    ticket_ids: Collection[str] | None,
) -> dict[str, KnownLabel]:
    """The labels that outcomes give; the newest of a ticket counts."""
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
    return told
