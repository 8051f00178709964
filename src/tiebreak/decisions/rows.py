"""From stored tickets through the core to the rows of `decisions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from tiebreak.core.arbitrate import Arbitration, ModelVerdict, Route, RouteReason
from tiebreak.core.bands import Band
from tiebreak.core.decide import Decisions
from tiebreak.core.stored import StoredTicket
from tiebreak.store.decision_ids import decision_id

Row = dict[str, Any]


def decision_rows(
    tickets: Sequence[StoredTicket],
    decisions: Decisions,
    *,
    ordinals: Sequence[int],
    decided_at: datetime,
    fingerprint: str,
) -> list[Row]:
    """The rows of `decisions`, without the seal's columns, in the order of the tickets."""
    rules = decisions.rules
    count = len(tickets)
    identifiers = [
        decision_id(t.as_of, t.workflow, t.ticket_id, t.revision, ordinal)
        for t, ordinal in zip(tickets, ordinals, strict=True)
    ]
    columns = {
        "as_of": [ticket.as_of for ticket in tickets],
        "decision_id": identifiers,
        "workflow": [ticket.workflow for ticket in tickets],
        "ticket_id": [ticket.ticket_id for ticket in tickets],
        "revision": [ticket.revision for ticket in tickets],
        "ordinal": ordinals,
        "decided_at": [decided_at] * count,
        "policy_hash": [decisions.policy.hash] * count,
        "fingerprint": [fingerprint] * count,
        "model_status": [decisions.model_status] * count,
        "base_value": [None if decisions.model is None else decisions.model.base_value] * count,
        **_arbitrated(decisions.arbitration),
        "rules_band": rules.band.tolist(),
        "rules_points": rules.points.tolist(),
        "hard_floor": [None if floor == Band.LOW else floor for floor in rules.hard_floor.tolist()],
        "fired": [_json(reasons) for reasons in decisions.reasons()],
        "errors": [_json(errors) for errors in decisions.errors()],
        **_scored(decisions.model, count),
    }
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _arbitrated(verdict: Arbitration) -> dict[str, list[Any]]:
    return {
        "band": verdict.band.tolist(),
        "route": [_ROUTES[route] for route in verdict.route.tolist()],
        "route_reason": [_REASONS[reason] for reason in verdict.reason.tolist()],
        "is_tie": verdict.is_tie.tolist(),
        "review_probability": verdict.review_probability.tolist(),
    }


def _scored(model: ModelVerdict | None, count: int) -> dict[str, list[Any]]:
    if model is None:
        return dict.fromkeys(("margin", "score", "model_band", "contributions"), [None] * count)
    return {
        "margin": model.margin.tolist(),
        "score": model.score.tolist(),
        "model_band": model.band.tolist(),
        "contributions": [row.tobytes() for row in model.contributions.astype("<f8", copy=False)],
    }


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_UTC_Z).decode()


_ROUTES = {int(route): route.label for route in Route}
_REASONS = {int(reason): reason.label for reason in RouteReason}


CANARY_FAILED = {"where": "canary", "code": "canary_failed"}


def standing_in(row: Row) -> Row:
    """The row of a ticket that production decided because its canary could not."""
    return {**row, "errors": _json([*orjson.loads(row["errors"]), CANARY_FAILED])}


def is_standing_in(row: Mapping[str, Any]) -> bool:
    """Whether production decided because a canary could not."""
    return CANARY_FAILED in orjson.loads(row["errors"])


def contributions_of(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The stored contributions of a decision, one a feature of its model."""
    return np.frombuffer(row["contributions"], dtype="<f8")
