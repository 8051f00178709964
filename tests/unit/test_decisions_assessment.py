"""What decisions were worth: figures beside the rules', with intervals that say how sure."""

from __future__ import annotations

import numpy as np
import pytest

from tiebreak.decisions.assessment import Assessed, figures_of
from tiebreak.training.evaluate import average_precision, roc_auc, verdict_order


def assessed(seed: int, tickets: int = 2_000) -> Assessed:
    """Tickets with calibrated scores, and rules that see them through a coarse glass."""
    random = np.random.default_rng(seed)
    scores = random.beta(1, 3, tickets)
    points = np.floor(scores * 4).astype(np.int64) * 10 + random.integers(0, 20, tickets)
    truth = (random.random(tickets) < scores).astype(np.float64)
    return Assessed([], scores, verdict_order(points // 20, points), truth)


def test_figures_are_those_of_plain_evaluation() -> None:
    found, ones = assessed(1), np.ones(2_000)
    told = figures_of(found)
    for name, figure in (("auc", roc_auc), ("pr_auc", average_precision)):
        values = [figure(by, found.truth, ones) for by in (found.scores, found.verdicts)]
        assert told["model"][name]["value"] == pytest.approx(values[0])
        assert told["rules"][name]["value"] == pytest.approx(values[1])
        assert told["difference"][name]["value"] == pytest.approx(values[0] - values[1])
    assert told["model"]["brier"]["value"] == pytest.approx(
        ((found.scores - found.truth) ** 2).mean()
    )


def test_intervals_are_the_same_again_and_those_of_differences_are_narrower() -> None:
    told = figures_of(assessed(2))
    assert told == figures_of(assessed(2))

    def width(of: str) -> float:
        return told[of]["auc"]["high"] - told[of]["auc"]["low"]

    # the two are right and wrong about the same tickets
    assert width("difference") < width("model")
    assert width("difference") < width("rules")


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    large = assessed(0, 200_000)
    truth = roc_auc(large.scores, large.truth, np.ones(200_000))
    held = 0
    for seed in range(1, 41):
        found = figures_of(assessed(seed, 500))["model"]["auc"]
        held += found["low"] <= truth <= found["high"]
    assert held >= 34  # fewer of 40 are a chance of 1 in 200


def test_no_reading_of_the_rules_has_a_better_brier_score_than_theirs() -> None:
    found = assessed(3)
    best = figures_of(found)["rules"]["brier"]["value"]
    steps = found.verdicts / found.verdicts.max()
    for reading in (steps, np.full(2_000, found.truth.mean()), steps**2):
        assert best < ((reading - found.truth) ** 2).mean()


def test_tickets_that_all_end_alike_rank_nobody() -> None:
    found = assessed(4)
    told = figures_of(Assessed([], found.scores, found.verdicts, np.zeros(2_000)))
    assert np.isnan(told["model"]["auc"]["value"])
    assert told["model"]["brier"]["value"] > 0
