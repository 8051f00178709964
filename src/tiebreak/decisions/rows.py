"""From stored tickets through the core to the rows of `decisions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from tiebreak.core.arbitrate import Route, RouteReason
from tiebreak.core.bands import Band
from tiebreak.core.decide import Decisions, decide
from tiebreak.core.policy import Policy
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import Schema
from tiebreak.store.decision_ids import decision_id

Row = dict[str, Any]


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
