"""Figures with intervals: the values are those of `evaluate`, the intervals cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from tiebreak.training.evaluate import average_precision, roc_auc
from tiebreak.training.resampling import Ranked, resampled
from tiebreak.training.resampling import drawn as drawn_figures


def drawn(seed: int, rows: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    scores = np.round(random.beta(1, 3, rows), 2)  # with ties
    return scores, (random.random(rows) < scores) * 1.0, random.integers(1, 4, rows) * 1.0


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_plain_evaluation(seed: int) -> None:
    scores, truth, weights = drawn(seed)
    ranked = Ranked.of(scores, truth)
    assert ranked.pr_auc(weights) == pytest.approx(average_precision(scores, truth, weights))
    assert ranked.auc(weights) == pytest.approx(roc_auc(scores, truth, weights))


def test_recall_counts_what_stands_at_the_top() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    ranked = Ranked.of(scores, np.array([1.0, 0.0, 1.0, 0.0]))
    ones = np.ones(4)
    assert [ranked.recall(ones, share) for share in (0.0, 0.25, 0.75, 1.0)] == [0, 0.5, 1, 1]


def test_a_calibrated_score_has_no_calibration_error_and_a_rank_none_at_all() -> None:
    scores, truth = np.repeat([0.0, 1.0], 50), np.repeat([0.0, 1.0], 50)
    assert Ranked.of(scores, truth).calibration_error(np.ones(100)) == 0.0
    assert Ranked.of(1 - scores, truth).calibration_error(np.ones(100)) == 1.0
    mere = Ranked.of(scores * 1e6, truth, is_probability=False)
    assert np.isnan(mere.calibration_error(np.ones(100)))


def test_scores_twice_too_high_are_seen_as_such() -> None:
    scores, truth, weights = drawn(1)
    gap = Ranked.of(np.minimum(2 * scores, 1), truth).score_less_rate(weights)
    assert gap > 0.15 > abs(Ranked.of(scores, truth).score_less_rate(weights))


def test_intervals_hold_the_figure_and_are_the_same_again() -> None:
    scores, truth, weights = drawn(1)
    ranked = Ranked.of(scores, truth)
    told = resampled({"auc": ranked.auc}, weights, seed=3)["auc"]
    assert told["low"] < told["value"] < told["high"]
    assert told == resampled({"auc": ranked.auc}, weights, seed=3)["auc"]
    assert told != resampled({"auc": ranked.auc}, weights, seed=4)["auc"]


def test_a_difference_is_taken_on_the_same_rows() -> None:
    scores, truth, weights = drawn(2)
    one, same = Ranked.of(scores, truth), Ranked.of(scores * 0.5, truth)  # the same order
    found = drawn_figures({"one": one.auc, "same": same.auc}, weights, seed=3, resamples=50)
    told = found["one"].less(found["same"]).figure()
    assert (told["low"], told["value"], told["high"]) == (0.0, 0.0, 0.0)
