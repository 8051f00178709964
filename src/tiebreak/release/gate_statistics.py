"""The statistics of gates: differences of rankings with their confidence, calibration, shift.

Everything here is a function of its arguments, seeds included. Arrays are (n,), without NaN;
`truth` is boolean and holds both classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as untyped

stats: Any = untyped  # its types are incomplete
_interpolate: Any = np.interp

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REPLICATES = 400
RESAMPLED = 20_000  # labelled rows that are resampled at most: more would only take longer
BINS = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and the ends of its one-sided 95% confidence: above `low`, below `high`."""

    value: float
    low: float
    high: float


class Ranking:
    """Rows in falling order of a score, for figures under many weightings of the rows.

    Rows of equal scores are one group; figures within a group are those of a random order.
    """

    def __init__(self, scores: Floats, truth: Bools) -> None:
        self._order = np.argsort(-scores)
        ordered = scores[self._order]
        self._ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
        self._truth = truth[self._order]

    def figures(self, weights: Floats, share: float) -> tuple[float, float]:
        """Average precision, and recall within the first `share` (0 to 1) of the weight.

        Average precision is the sum of precision x step of recall over distinct scores.
        """
        ordered = weights[self._order]
        seen = np.cumsum(ordered)[self._ends]
        found = np.cumsum(np.where(self._truth, ordered, 0.0))[self._ends]
        steps = np.diff(found, prepend=0.0)
        positives = found[-1]
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        known = np.append(0.0, seen), np.append(0.0, found)
        within = float(_interpolate(share * seen[-1], *known))
        return float((precision * steps).sum() / positives), within / float(positives)


@dataclass(frozen=True, slots=True)
class Compared:
    """Figures of a candidate and of production on the same rows, and their differences."""

    pr_auc: tuple[float, float]
    recall: tuple[float, float]
    pr_auc_difference: Estimate
    recall_difference: Estimate


def compare(
    candidate: Floats, production: Floats, truth: Bools, *, share: float, seed: int
) -> Compared:
    """Average precision and recall at capacity of two scores, with a paired bootstrap.

    Each replicate draws one weight a row, Poisson(1), and uses it for both scores (Poisson
    bootstrap: Chamandy et al. 2012, "Estimating uncertainty for massive data streams"; paired:
    Efron and Tibshirani 1993). Ends are basic bootstrap ends, difference - quantile of
    (replicate - difference). Of more than RESAMPLED rows so many are drawn and resampled, which
    widens the ends.
    """
    whole = [Ranking(scores, truth) for scores in (candidate, production)]
    ones = np.ones(len(truth))
    figures = [ranking.figures(ones, share) for ranking in whole]
    random = np.random.default_rng(seed)
    chosen = _sample(truth, random)
    rankings = [Ranking(scores[chosen], truth[chosen]) for scores in (candidate, production)]
    base = _difference(rankings, np.ones(len(chosen)), share)
    drawn = np.array(
        [_difference(rankings, _weights(truth[chosen], random), share) for _ in range(REPLICATES)]
    )
    deviation = drawn - base
    differences = np.subtract(figures[0], figures[1])
    ends = differences - np.quantile(deviation, [0.95, 0.05], axis=0)
    return Compared(
        (figures[0][0], figures[1][0]),
        (figures[0][1], figures[1][1]),
        Estimate(float(differences[0]), float(ends[0, 0]), float(ends[1, 0])),
        Estimate(float(differences[1]), float(ends[0, 1]), float(ends[1, 1])),
    )


def _sample(truth: Bools, random: np.random.Generator) -> NDArray[np.int64]:
    if len(truth) <= RESAMPLED:
        return np.arange(len(truth))
    while True:
        chosen = random.choice(len(truth), RESAMPLED, replace=False, shuffle=False)
        if truth[chosen].any() and not truth[chosen].all():
            return chosen


def _weights(truth: Bools, random: np.random.Generator) -> Floats:
    while True:
        weights = random.poisson(1.0, len(truth)).astype(np.float64)
        if weights[truth].any():
            return weights


def _difference(rankings: Sequence[Ranking], weights: Floats, share: float) -> Floats:
    candidate, production = (ranking.figures(weights, share) for ranking in rankings)
    return np.subtract(candidate, production)


def auc_difference(
    candidate: Floats, production: Floats, truth: Bools, *, confidence: float = 0.95
) -> tuple[tuple[float, float], Estimate]:
    """Both areas under the ROC curve, and their difference by DeLong's method.

    Var = S10 / positives + S01 / negatives of the differences of placement values (DeLong,
    DeLong and Clarke-Pearson 1988; midranks: Sun and Xu 2014).
    """
    positive, negative = zip(*(_placements(s, truth) for s in (candidate, production)), strict=True)
    areas = float(positive[0].mean()), float(positive[1].mean())
    variance = _variance(positive[0] - positive[1]) + _variance(negative[0] - negative[1])
    return areas, _normal(areas[0] - areas[1], variance, confidence)


def auc_with_confidence(scores: Floats, truth: Bools) -> Estimate:
    """The area under the ROC curve by DeLong's method."""
    positive, negative = _placements(scores, truth)
    return _normal(float(positive.mean()), _variance(positive) + _variance(negative), 0.95)


def _placements(scores: Floats, truth: Bools) -> tuple[Floats, Floats]:
    """For each positive the share of negatives below it, for each negative that of positives above.

    Ties count half.
    """
    order = np.argsort(scores)
    ordered, is_positive = scores[order], truth[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    sizes = np.diff(ends, prepend=-1)
    high = np.cumsum(is_positive)[ends]  # positives through each group of equal scores
    low = ends + 1 - high
    # Those before a group and half of those in it are the mean of those before and through it.
    below_high, below_low = ((each + np.append(0, each[:-1])) / 2 for each in (high, low))
    below = np.empty(len(scores))
    below[order] = np.where(is_positive, np.repeat(below_low, sizes), np.repeat(below_high, sizes))
    return below[truth] / low[-1], 1.0 - below[~truth] / high[-1]


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else float("inf")


def _normal(value: float, variance: float, confidence: float) -> Estimate:
    reach = float(stats.norm.ppf(confidence)) * float(np.sqrt(variance))
    return Estimate(value, value - reach, value + reach)


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """The expected calibration error, and what a perfect score exceeds in 5% of such samples."""

    value: float
    chance: float


def calibration_error(scores: Floats, truth: Bools, *, seed: int) -> CalibrationError:
    """Sum over tenths of the rows by score of share x |mean score - rate of positives|.

    Naeini et al. 2015, with bins of equal mass. Even a perfect score has an error above 0 in a
    finite sample (Roelofs et al. 2022), so labels are drawn anew by the scores themselves to tell
    how large.
    """
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(scores[order], min(BINS, len(scores)))
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    means = np.array([part.mean() for part in parts])
    rates = np.array([part.mean() for part in np.array_split(truth[order], len(parts))])
    spread = np.array([(part * (1.0 - part)).sum() for part in parts])
    share = sizes / len(scores)
    error = float((share * np.abs(means - rates)).sum())
    random = np.random.default_rng(seed)
    noise = random.normal(size=(REPLICATES, len(parts))) * np.sqrt(spread) / sizes
    chance = (share * np.abs(noise)).sum(axis=1)
    return CalibrationError(error, float(np.quantile(chance, 0.95)))


def stability_index(expected: Floats, found: Floats) -> float:
    """The population stability index of two distributions over the same bins, counts or shares.

    Sum of (found - expected) x ln(found / expected) over shares; an empty bin counts as half a row.
    Siddiqi 2006: below 0.1 is stable, above 0.25 a large shift.
    """
    shares = [np.maximum(counts, 0.5) / counts.sum() for counts in (expected, found)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
