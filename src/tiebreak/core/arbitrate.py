"""Arbitration: from the two layers' verdicts to the final band and the route."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.bands import Band
from tiebreak.core.rules import RulesVerdict
from tiebreak.core.workflow import Knobs

HASHES = 2**63


class Route(IntEnum):
    """Where a decided ticket goes."""

    AUTO = 0
    TIEBREAK = 1
    REVIEW = 2

    @property
    def label(self) -> str:
        """The route as tables and answers write it."""
        return self.name.lower()


class RouteReason(IntEnum):
    """Why a ticket took its route; the first that applies, from the largest down."""

    AGREED = 0
    AUDIT_SAMPLE = 1
    HIGH_BAND = 2
    UNCERTAIN = 3  # a tie: verdicts differ and the score lies in the uncertain zone
    DISTANCE = 4  # a tie: verdicts are further apart than the agreement distance
    ESCALATED = 5  # a tie: a rule escalates

    @property
    def label(self) -> str:
        """The reason as tables and answers write it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What the model says of n tickets."""

    margin: NDArray[np.float64]  # (n,), log-odds
    score: NDArray[np.float64]  # (n,), calibrated probability
    band: NDArray[np.int8]  # (n,)
    contributions: NDArray[np.float64]  # (n, features), in margin space
    base_value: float


@dataclass(frozen=True, slots=True)
class Arbitration:
    """What becomes of n tickets."""

    band: NDArray[np.int8]  # (n,)
    route: NDArray[np.int8]  # (n,), Route
    reason: NDArray[np.int8]  # (n,), RouteReason
    is_tie: NDArray[np.bool_]  # (n,)
    review_probability: NDArray[np.float64]  # (n,)


def arbitrate(
    rules: RulesVerdict,
    model: ModelVerdict | None,
    ticket_hash: NDArray[np.int64],
    knobs: Knobs,
    *,
    has_tiebreak: bool,
) -> Arbitration:
    """Compose the verdicts. Without a model the rules decide alone and only escalation ties.

    The final band is the higher verdict, bounded by hard ceilings and then by hard floors.
    `ticket_hash` is uniform over [0, 2^63) and chooses the audit sample. A tie goes to the
    tie-break where there is one, else to review.
    """
    band = rules.band if model is None else np.maximum(rules.band, model.band)
    band = np.maximum(np.minimum(band, rules.hard_ceiling), rules.hard_floor)

    distance = np.zeros_like(band) if model is None else np.abs(rules.band - model.band)
    is_apart = distance > knobs.agreement_distance
    is_uncertain = (distance > 0) & _uncertain(model, knobs, band.shape)
    is_tie = rules.escalates | is_apart | is_uncertain

    review_from = Band.of(knobs.review_from) if knobs.review_from else Band.CRITICAL + 1
    is_high = band >= review_from
    is_sample = ticket_hash <= np.int64(round(knobs.audit_share * HASHES) - 1)

    applies = {
        RouteReason.AUDIT_SAMPLE: is_sample,
        RouteReason.HIGH_BAND: is_high,
        RouteReason.UNCERTAIN: is_uncertain,
        RouteReason.DISTANCE: is_apart,
        RouteReason.ESCALATED: rules.escalates,
    }
    reason = np.full(band.shape, RouteReason.AGREED, dtype=np.int8)
    for each, where in applies.items():
        reason[where] = each
    tie_route = Route.TIEBREAK if has_tiebreak else Route.REVIEW
    route = np.full(band.shape, Route.AUTO, dtype=np.int8)
    route[reason != RouteReason.AGREED] = Route.REVIEW
    route[is_tie] = tie_route
    is_certain_review = (is_high & ~is_tie) | (is_tie & (tie_route is Route.REVIEW))
    review_probability = np.where(is_certain_review, 1.0, np.where(is_tie, 0.0, knobs.audit_share))
    return Arbitration(band, route, reason, is_tie, review_probability)


def _uncertain(
    model: ModelVerdict | None, knobs: Knobs, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    if model is None:
        return np.zeros(shape, dtype=np.bool_)
    return (model.score >= knobs.uncertain_low) & (model.score < knobs.uncertain_high)
