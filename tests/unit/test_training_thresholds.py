"""Thresholds: the cheapest that people have time for, by trying all; cuts that always rise."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.core.workflow import Knobs
from tiebreak.training.thresholds import BANDS, Curve, Judged, Terms, choose, section

DAYS = 10.0


def judged(seed: int = 0, rows: int = 400, digits: int = 2) -> Judged:
    """Scores with ties, right on average."""
    random = np.random.default_rng(seed)
    scores = np.round(random.beta(1, 5, rows), digits)
    return Judged(scores, (random.random(rows) < scores) * 1.0, np.ones(rows), DAYS)


def cost_of(one: Judged, threshold: float, terms: Terms) -> tuple[float, float]:
    """Reviews and costs a day, counted ticket by ticket."""
    reviewed = one.scores >= threshold
    missed = float((one.truth * ~reviewed).sum())
    needless = float(((1 - one.truth) * reviewed).sum())
    cost = missed * terms.cost_missed + needless * terms.cost_needless
    return float(reviewed.sum()) / DAYS, cost / DAYS


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reviews", [0.0, 1.0, 4.0, 1_000.0])
def test_the_choice_is_the_cheapest_of_all_that_people_have_time_for(
    seed: int, reviews: float
) -> None:
    one, terms = judged(seed), Terms(reviews, 50.0, 8.0)
    chosen = choose(one, Knobs(), terms)["chosen"]
    tried = [cost_of(one, t, terms) for t in [*np.unique(one.scores), 1.1]]
    cheapest = min(cost for count, cost in tried if count <= reviews)
    count, cost = cost_of(one, chosen["threshold"], terms)
    assert count == pytest.approx(chosen["reviews_a_day"])
    assert count <= reviews
    assert cost == pytest.approx(cheapest) == pytest.approx(chosen["cost_a_day"])


def test_every_point_of_the_curve_is_what_would_be_counted() -> None:
    one, terms = judged(3, digits=6), Terms(3.0, 50.0, 8.0)
    curve = Curve.of(one, terms)
    for place in range(len(curve.thresholds)):
        told = curve.at(place)
        counted = cost_of(one, told["threshold"], terms)
        assert counted == pytest.approx((told["reviews_a_day"], told["cost_a_day"]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    reviews=st.floats(0, 60),
    missed=st.floats(0, 1e4),
    needless=st.floats(0, 1e4),
    review_from=st.sampled_from(BANDS),
)
def test_cuts_rise_within_0_and_1(
    seed: int,
    reviews: float,
    missed: float,
    needless: float,
    review_from: Literal["medium", "high", "critical"],
) -> None:
    knobs = Knobs(review_from=review_from)
    chosen = choose(judged(seed, 60), knobs, Terms(reviews, missed, needless))
    cuts = [chosen["knobs"][f"probability.{band}"] for band in BANDS]
    assert all(low < high for low, high in pairwise([0.0, *cuts, 1.0]))


def test_it_says_what_is_now_and_draws_the_curve() -> None:
    chosen = choose(judged(), Knobs(), Terms(2.0, 50.0, 8.0))
    assert chosen["now"]["threshold"] == Knobs().probability.critical
    assert chosen["tickets_a_day"] == 40.0
    told = section(chosen)
    assert len(told.rows) == 3
    assert "<svg" in told.drawing
