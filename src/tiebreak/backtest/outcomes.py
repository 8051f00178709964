"""What known outcomes say of flips: caught, missed, needless; and what reviewing them costs.

A ticket is *flagged* when a person would look at it: its route is review, or its band is high or
critical. A bad end that was flagged is *caught*, one that was not is *missed*; a review of a
ticket with a good end was *needless*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.backtest.flips import (
    FLAGGED_FROM,
    NEGATIVE,
    POSITIVE,
    REVIEW,
    SHAPE,
    TIEBREAK,
    TRUTHS,
    Cells,
    cube,
)
from tiebreak.core.release_plan import ReleasePlan

MINUTES_A_REVIEW = 6.0  # unless somebody says otherwise

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def figures(cells: Cells, *, minutes_a_review: float) -> dict[str, Any]:
    """Everything that is told of some tickets, as plain data."""
    counts = cube(cells)
    band_before, band_after, route_before, route_after, truth = np.indices(SHAPE, sparse=True)
    was_flagged = (band_before >= FLAGGED_FROM) | (route_before == REVIEW)
    is_flagged = (band_after >= FLAGGED_FROM) | (route_after == REVIEW)
    is_bad, is_good = truth == POSITIVE, truth == NEGATIVE
    was_review, is_review = route_before == REVIEW, route_after == REVIEW

    def count(*conditions: Mask) -> int:
        chosen = np.ones(SHAPE, dtype=np.bool_)
        for condition in conditions:
            chosen &= condition
        return int(counts[chosen].sum())

    reviews = [count(was_review), count(is_review)]
    hours = [each * minutes_a_review / 60 for each in reviews]
    return {
        "tickets": int(counts.sum()),
        "flips": count(band_before != band_after),
        "raised": count(band_after > band_before),
        "lowered": count(band_after < band_before),
        "rerouted": count(route_before != route_after),
        "bands": counts.sum(axis=(2, 3, 4)).tolist(),
        "routes": counts.sum(axis=(0, 1, 4)).tolist(),
        "reviews": change(reviews),
        "reviewer_hours": change([round(each, 2) for each in hours]),
        "tiebreak_calls": change([count(route_before == TIEBREAK), count(route_after == TIEBREAK)]),
        "outcomes": {name: count(truth == i) for i, name in enumerate(TRUTHS)},
        "caught": change([count(is_bad, was_flagged), count(is_bad, is_flagged)]),
        "missed": change([count(is_bad, ~was_flagged), count(is_bad, ~is_flagged)]),
        "needless_reviews": change([count(is_good, was_review), count(is_good, is_review)]),
        "newly_caught": count(is_bad, ~was_flagged, is_flagged),
        "newly_missed": count(is_bad, was_flagged, ~is_flagged),
        "new_needless_reviews": count(is_good, ~was_review, is_review),
    }


def cost(figures: Mapping[str, Any], plan: ReleasePlan) -> dict[str, float] | None:
    """What missed bad ends and needless reviews cost by the plan's costs; None: it names none."""
    missed, needless = plan.missed_cost, plan.needless_cost
    if missed is None or needless is None:
        return None
    return change(
        [
            missed * figures["missed"][when] + needless * figures["needless_reviews"][when]
            for when in ("before", "after")
        ]
    )


def change(values: Sequence[float]) -> dict[str, float]:
    """A figure before and after."""
    before, after = values
    return {"before": before, "after": after, "change": round(after - before, 2)}
