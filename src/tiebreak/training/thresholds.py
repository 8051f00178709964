"""Thresholds for bands: the cheapest ones that people have time for, on validation tickets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.model import Model
from tiebreak.core.workflow import Cuts, Knobs
from tiebreak.errors import InvalidInput
from tiebreak.report.documents import Section
from tiebreak.report.plots import curves
from tiebreak.training.dataset import Snapshot

Floats = NDArray[np.float64]
BANDS = ("medium", "high", "critical")
_CURVE_POINTS = 120
_DIGITS = 4


class NothingToJudge(InvalidInput):
    """No ticket of the snapshot validates this model."""

    code = "nothing_to_judge"


@dataclass(frozen=True, slots=True)
class Terms:
    """What people can review, and what mistakes cost, both in the same unit."""

    reviews_a_day: float
    cost_missed: float
    cost_needless: float


@dataclass(frozen=True, eq=False)
class Judged:
    """Scores and ends (n,) of validation tickets over some days."""

    scores: Floats
    truth: Floats
    weights: Floats
    days: float

    @classmethod
    def by(cls, model: Model, snapshot: Snapshot) -> Judged:
        """The model's scores of the rows of its snapshot that validated it; NothingToJudge."""
        valid_from = datetime.fromisoformat(model.manifest["parameters"]["valid_from"])
        rows = snapshot.select((snapshot.as_of >= valid_from).to_numpy())
        if not rows.frame.height:
            raise NothingToJudge(hint="Train the model anew.")
        moments = rows.as_of.to_physical().to_numpy()
        return cls(
            scores=model.scores(model.margins(model.matrix(rows.frame))),
            truth=rows.targets.astype(np.float64),
            weights=rows.row_weights,
            days=max(float(moments.max() - moments.min()) / 86_400e6, 1.0),
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """What follows, a day, of reviewing scores from each of the thresholds (k,) on, rising."""

    thresholds: Floats
    reviews: Floats
    missed: Floats
    needless: Floats
    costs: Floats

    @classmethod
    def of(cls, judged: Judged, terms: Terms) -> Curve:
        """The curve over all thresholds that part the scores, and one above them all."""
        order = np.argsort(-judged.scores, kind="stable")
        scores, weights = judged.scores[order], judged.weights[order]
        bad = weights * judged.truth[order]
        ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
        # divided at the end: sums of whole weights are exact, and a capacity is met exactly
        reviews = np.append(0.0, np.cumsum(weights)[ends])[::-1] / judged.days
        caught = np.append(0.0, np.cumsum(bad)[ends])[::-1] / judged.days
        missed, needless = bad.sum() / judged.days - caught, reviews - caught
        costs = missed * terms.cost_missed + needless * terms.cost_needless
        return cls(_between(scores[ends])[::-1], reviews, missed, needless, costs)

    def at(self, place: int) -> dict[str, float]:
        """What follows of the threshold at this place."""
        return {
            "threshold": float(self.thresholds[place]),
            "reviews_a_day": float(self.reviews[place]),
            "missed_a_day": float(self.missed[place]),
            "needless_a_day": float(self.needless[place]),
            "cost_a_day": float(self.costs[place]),
        }

    def place_of(self, threshold: float) -> int:
        """Where a threshold stands among these: the least that reviews no more."""
        return min(int(np.searchsorted(self.thresholds, threshold)), len(self.thresholds) - 1)

    def cheapest(self, most_reviews: float = np.inf) -> int:
        """Where it costs least with no more reviews than these, the fewest reviews of equals."""
        costs = np.where(self.reviews <= most_reviews, self.costs, np.inf)
        return len(costs) - 1 - int(np.argmin(costs[::-1]))


def choose(judged: Judged, knobs: Knobs, terms: Terms) -> dict[str, Any]:
    """The probability cuts to set, what follows of them, and the curve, as plain data.

    The band from which all is reviewed begins where a day costs least among the thresholds that
    people have time for; the band below it where it would cost least if they had all the time.
    Other cuts stay as they are where they still fit.
    """
    curve = Curve.of(judged, terms)
    review_from = knobs.review_from or "critical"
    best, unbound = curve.cheapest(terms.reviews_a_day), curve.cheapest()
    cuts = _cuts(knobs.probability, review_from, curve.thresholds[[best, unbound]].tolist())
    now = getattr(knobs.probability, review_from)
    shown = np.unique(
        np.linspace(0, len(curve.thresholds) - 1, _CURVE_POINTS).astype(np.int64)
    ).tolist()
    return {
        "terms": asdict(terms),
        "review_from": review_from,
        "tickets_a_day": float(judged.weights.sum() / judged.days),
        "knobs": {f"probability.{band}": cuts[band] for band in BANDS},
        "chosen": curve.at(best),
        "unbound": curve.at(unbound),
        "now": curve.at(curve.place_of(now)) | {"threshold": now},
        "curve": [curve.at(place) for place in shown],
    }


def section(chosen: Mapping[str, Any]) -> Section:
    """The choice as a part of a report."""
    terms, points = chosen["terms"], chosen["curve"]
    said = [
        f"{terms['reviews_a_day']:g} reviews a day, {terms['cost_missed']:g} a bad end that is "
        f"missed, {terms['cost_needless']:g} a needless review.",
        "It counts reviews that the model's band asks for. Rules and ties ask for more: "
        "`tiebreak backtest run` with these knobs counts them all.",
    ]
    drawing = curves(
        "What a day costs by threshold",
        f"score from which all is reviewed ({chosen['review_from']})",
        [
            ("in all", [(p["threshold"], p["cost_a_day"]) for p in points]),
            (
                "missed",
                [(p["threshold"], p["missed_a_day"] * terms["cost_missed"]) for p in points],
            ),
            (
                "needless",
                [(p["threshold"], p["needless_a_day"] * terms["cost_needless"]) for p in points],
            ),
        ],
    )
    return Section("Thresholds", said, COLUMNS, rows(chosen), drawing)


COLUMNS = ("", "threshold", "reviews a day", "missed a day", "needless a day", "cost a day")
_ROWS = (("as it is", "now"), ("within capacity", "chosen"), ("with all the time", "unbound"))


def rows(chosen: Mapping[str, Any]) -> list[list[str]]:
    """A row each way to choose."""
    names = ("reviews_a_day", "missed_a_day", "needless_a_day", "cost_a_day")
    return [
        [
            title,
            f"{chosen[name]['threshold']:.4f}",
            *(f"{chosen[name][figure]:,.1f}" for figure in names),
        ]
        for title, name in _ROWS
    ]


def _between(scores: Floats) -> Floats:
    """A threshold below each of these falling scores, and one above the first, falling.

    Each stands between its score and the next lower one, with few digits where there is room.
    """
    lower = np.append(scores[1:], 0.0)
    found = middle = (scores + lower) / 2
    for digits in (_DIGITS + 4, _DIGITS + 2, _DIGITS):
        short = np.round(middle, digits)
        found = np.where((short <= scores) & (short > lower), short, found)
    return np.append((1.0 + scores[0]) / 2, found)


def _cuts(now: Cuts, review_from: str, found: list[float]) -> dict[str, float]:
    """Three rising cuts within 0 and 1, with those found in their places."""
    cuts = {band: float(getattr(now, band)) for band in BANDS}
    at = BANDS.index(review_from)
    cuts[review_from] = min(max(found[0], 1e-6), 1.0 - 1e-6)
    if at > 0 and 0.0 < found[1] < cuts[review_from]:
        cuts[BANDS[at - 1]] = found[1]
    for place in range(at - 1, -1, -1):
        upper = cuts[BANDS[place + 1]]
        if cuts[BANDS[place]] >= upper:
            cuts[BANDS[place]] = round(upper / 2, _DIGITS) or upper / 2
    for place in range(at + 1, len(BANDS)):
        lower = cuts[BANDS[place - 1]]
        if cuts[BANDS[place]] <= lower:
            cuts[BANDS[place]] = (1.0 + lower) / 2
    return cuts
