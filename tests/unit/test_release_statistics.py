"""The gates' statistics against other implementations, and their coverage in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from tiebreak.release import gate_statistics
from tiebreak.release.gate_statistics import (
    Ranking,
    auc_difference,
    auc_with_confidence,
    calibration_error,
    compare,
    stability_index,
)


def drawn(
    random: np.random.Generator, rows: int, *, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two scores with shared noise, and labels of which 15% are positive."""
    truth = random.random(rows) < 0.15
    truth[:2] = (True, False)
    shared = random.normal(size=rows)
    one, other = (truth * s + shared + random.normal(size=rows) * 0.7 for s in (strength, 1.0))
    return one, other, truth


@pytest.mark.parametrize("digits", [12, 1, 0])
def test_figures_are_those_of_scikit_learn(digits: int) -> None:
    random = np.random.default_rng(1)
    scores, other, truth = drawn(random, 900)
    scores, other = scores.round(digits), other.round(digits)
    weights = random.integers(0, 4, 900).astype(float)
    found, recall = Ranking(scores, truth).figures(weights, 1.0)
    expected = metrics.average_precision_score(truth, scores, sample_weight=weights)
    assert found == pytest.approx(expected, abs=1e-12)
    assert recall == pytest.approx(1.0)
    areas, _ = auc_difference(scores, other, truth)
    for area, each in zip(areas, (scores, other), strict=True):
        assert area == pytest.approx(metrics.roc_auc_score(truth, each), abs=1e-12)


def test_recall_at_capacity_is_that_of_a_random_order_among_equals() -> None:
    random = np.random.default_rng(2)
    scores = random.integers(0, 5, 60).astype(float)
    truth = random.random(60) < 0.3
    _, found = Ranking(scores, truth).figures(np.ones(60), 0.4)
    shares: list[float] = []
    for _ in range(4_000):
        shuffled = random.permutation(60)
        order = shuffled[np.argsort(-scores[shuffled], kind="stable")]
        shares.append(truth[order[:24]].sum() / truth.sum())
    assert found == pytest.approx(np.mean(shares), abs=0.005)


def test_delong_agrees_with_its_definition() -> None:
    one, other, truth = drawn(np.random.default_rng(3), 150)
    _, found = auc_difference(one, other, truth)

    def psi(scores: np.ndarray) -> np.ndarray:
        gaps = scores[truth][:, None] - scores[~truth][None, :]
        return (gaps > 0) + 0.5 * (gaps == 0)

    gap = psi(one) - psi(other)
    variance = gap.mean(axis=1).var(ddof=1) / truth.sum()
    variance += gap.mean(axis=0).var(ddof=1) / (~truth).sum()
    assert found.value == pytest.approx(gap.mean())
    assert found.value - found.low == pytest.approx(1.6448536 * np.sqrt(variance))
    assert found.high - found.value == pytest.approx(found.value - found.low)


@pytest.mark.parametrize("digits", [12, 2, 0])
def test_placements_are_those_of_three_rankings(digits: int) -> None:
    """Sun and Xu's own formula: midranks of all scores, and of either end alone."""
    scores, _, truth = drawn(np.random.default_rng(9), 700)
    scores = scores.round(digits)
    high, low = scores[truth], scores[~truth]
    ranks = stats.rankdata(scores)
    found = gate_statistics._placements(scores, truth)
    assert (found[0] == (ranks[truth] - stats.rankdata(high)) / len(low)).all()
    assert (found[1] == 1 - (ranks[~truth] - stats.rankdata(low)) / len(high)).all()


def test_delongs_area_is_normal_where_there_is_no_signal() -> None:
    random = np.random.default_rng(4)
    found = [
        auc_with_confidence(random.normal(size=200), random.permutation(200) < 60)
        for _ in range(400)
    ]
    z = [(each.value - 0.5) / ((each.high - each.value) / 1.6448536) for each in found]
    assert stats.kstest(z, "norm").pvalue > 0.01
    wilcoxon = np.sqrt((60 + 140 + 1) / (12 * 60 * 140))  # the U test's variance under no signal
    assert np.std([each.value for each in found]) == pytest.approx(wilcoxon, rel=0.12)


@pytest.mark.full
@pytest.mark.parametrize("figure", ["pr_auc_difference", "recall_difference", "auc"])
def test_one_sided_ends_cover_as_they_say(figure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 95% one-sided ends about 95% lie on their side of the truth, which is 0 here."""
    monkeypatch.setattr(gate_statistics, "REPLICATES", 120)
    random = np.random.default_rng(5)
    above = below = 0
    for trial in range(300):
        one, other, truth = drawn(random, 400)
        if figure == "auc":
            estimate = auc_difference(one, other, truth)[1]
        else:
            estimate = getattr(compare(one, other, truth, share=0.1, seed=trial), figure)
        above += estimate.low > 0
        below += estimate.high < 0
    for outside in (above, below):
        assert stats.binomtest(outside, 300, 0.05).pvalue > 0.001, (above, below)


def test_the_same_seed_gives_the_same_bits_and_another_others() -> None:
    one, other, truth = drawn(np.random.default_rng(6), 500)
    first, again, third = (compare(one, other, truth, share=0.1, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.pr_auc == third.pr_auc
    assert first.pr_auc_difference != third.pr_auc_difference


def test_of_many_rows_some_are_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, truth = drawn(np.random.default_rng(7), 4_000, strength=2.0)
    whole = compare(one, other, truth, share=0.1, seed=1).pr_auc_difference
    monkeypatch.setattr(gate_statistics, "RESAMPLED", 1_000)
    part = compare(one, other, truth, share=0.1, seed=1).pr_auc_difference
    assert part.value == whole.value
    assert part.high - part.low == pytest.approx(2 * (whole.high - whole.low), rel=0.3)


def test_a_perfect_score_is_calibrated_and_a_stretched_one_is_not() -> None:
    random = np.random.default_rng(8)
    exceeded = 0
    for trial in range(200):
        scores = random.beta(1, 6, 1_000)
        found = calibration_error(scores, random.random(1_000) < scores, seed=trial)
        exceeded += found.value > found.chance
    assert stats.binomtest(exceeded, 200, 0.05).pvalue > 0.001
    scores = random.beta(1, 6, 5_000)
    found = calibration_error(scores, random.random(5_000) < scores / 2, seed=1)
    assert found.value == pytest.approx(scores.mean() / 2, abs=0.02)
    assert found.value > 3 * found.chance


def test_the_stability_index_is_its_formula() -> None:
    even = np.full(10, 100.0)
    assert stability_index(even, even) == 0.0
    moved = np.array([50.0, 150.0, *[100.0] * 8])
    assert stability_index(even, moved) == pytest.approx(0.05 * np.log(1.5) - 0.05 * np.log(0.5))
    gone = np.array([0.0] * 9 + [1000.0])
    assert stability_index(even, gone) > 1
