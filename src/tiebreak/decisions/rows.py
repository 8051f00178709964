"""Between the core's columns and the store's rows: stored tickets in, decision rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import orjson
import polars as pl

from tiebreak.core.arbitrate import Route, RouteReason
from tiebreak.core.bands import Band
from tiebreak.core.decide import Decisions, decide
from tiebreak.core.policy import Policy
from tiebreak.core.tickets import Schema
from tiebreak.store.decision_ids import decision_id

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredTicket:
    """A ticket revision as it is decided: what admission stored, at full precision."""

    workflow: str
    ticket_id: str
    revision: int
    as_of: datetime
    ticket_hash: int
    values: Mapping[str, Any]
    context: Mapping[str, int]

    @classmethod
    def from_row(cls, row: Mapping[str, Any], schema: Schema) -> StoredTicket:
        """Read a row of `tickets` whose content has not been erased."""
        return cls(
            workflow=row["workflow"],
            ticket_id=row["ticket_id"],
            revision=row["revision"],
            as_of=row["as_of"],
            ticket_hash=row["ticket_hash"],
            values=schema.load(row["content"].encode()),
            context=orjson.loads(row["context"]),
        )


def columns(
    tickets: Sequence[StoredTicket], schema: Schema, context_columns: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tickets and their context as the core takes them."""
    as_of = pl.Series("as_of", [t.as_of for t in tickets], dtype=pl.Datetime("us", "UTC"))
    hashes = pl.Series("ticket_hash", [t.ticket_hash for t in tickets], dtype=pl.Int64)
    frame = schema.frame([dict(t.values) for t in tickets]).with_columns(as_of, hashes)
    context = pl.DataFrame(
        [
            pl.Series(name, [t.context.get(name) for t in tickets], dtype=pl.Int64)
            for name in context_columns
        ]
    )
    return frame, context


def decide_stored(tickets: Sequence[StoredTicket], schema: Schema, policy: Policy) -> Decisions:
    """Decide stored tickets: the way online, bulk, recovery and replay all take."""
    frame, context = columns(tickets, schema, policy.features_plan.history.context_columns)
    return decide(frame, context, policy)


def decision_rows(
    tickets: Sequence[StoredTicket],
    decisions: Decisions,
    *,
    ordinals: Sequence[int],
    decided_at: datetime,
    fingerprint: str,
) -> list[Row]:
    """The rows of `decisions`, without the seal's columns, in the order of the tickets."""
    verdict, rules, model = decisions.arbitration, decisions.rules, decisions.model
    reasons, errors = decisions.reasons(), decisions.errors()
    has_hard_floor = rules.hard_floor > Band.LOW
    rows: list[Row] = []
    for i, (ticket, ordinal) in enumerate(zip(tickets, ordinals, strict=True)):
        row: Row = {
            "as_of": ticket.as_of,
            "decision_id": decision_id(
                ticket.as_of, ticket.workflow, ticket.ticket_id, ticket.revision, ordinal
            ),
            "workflow": ticket.workflow,
            "ticket_id": ticket.ticket_id,
            "revision": ticket.revision,
            "ordinal": ordinal,
            "decided_at": decided_at,
            "policy_hash": decisions.policy.hash,
            "fingerprint": fingerprint,
            "band": int(verdict.band[i]),
            "route": Route(verdict.route[i]).label,
            "route_reason": RouteReason(verdict.reason[i]).label,
            "is_tie": bool(verdict.is_tie[i]),
            "review_probability": float(verdict.review_probability[i]),
            "rules_band": int(rules.band[i]),
            "rules_points": int(rules.points[i]),
            "hard_floor": int(rules.hard_floor[i]) if has_hard_floor[i] else None,
            "fired": orjson.dumps(reasons[i], option=orjson.OPT_UTC_Z).decode(),
            "model_status": decisions.model_status,
            "margin": None,
            "score": None,
            "model_band": None,
            "base_value": None,
            "contributions": None,
            "errors": orjson.dumps(errors[i]).decode(),
        }
        if model is not None:
            row["margin"] = float(model.margin[i])
            row["score"] = float(model.score[i])
            row["model_band"] = int(model.band[i])
            row["base_value"] = model.base_value
            row["contributions"] = model.contributions[i].astype("<f8").tobytes()
        rows.append(row)
    return rows


def contributions_of(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The stored contributions of a decision, one a feature of its model."""
    return np.frombuffer(row["contributions"], dtype="<f8")
