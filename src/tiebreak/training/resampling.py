"""Figures of scores with intervals: the same resampled rows for all that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 200  # where many are compared
_LOW, _HIGH = 0.025, 0.975


class Figure(TypedDict):
    """A figure on the rows as they are, and the bounds of 95% of resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure of the rows as they are, and of each resample (r,); NaN where it is undefined."""

    value: float
    resamples: Floats

    def figure(self) -> Figure:
        """The figure with the bounds of 95% of the resamples."""
        told = self.resamples[~np.isnan(self.resamples)]
        low, high = np.quantile(told, [_LOW, _HIGH]) if len(told) else (np.nan, np.nan)
        return Figure(value=self.value, low=float(low), high=float(high))

    def less(self, other: Drawn) -> Drawn:
        """What it is more than another figure, resample by resample of the same rows."""
        return Drawn(self.value - other.value, self.resamples - other.resamples)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Scores (n,) in order, so that figures of many weightings (n,) of the rows are cheap."""

    order: NDArray[np.int64]  # the highest score first
    starts: NDArray[np.int64]  # where each distinct score begins
    truth: Floats
    scores: Floats
    is_probability: bool

    @classmethod
    def of(cls, scores: Floats, truth: Floats, *, is_probability: bool = True) -> Ranked:
        """Scores of rows whose truth is 0 or 1."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        return cls(order, starts, truth, scores, is_probability)

    def pr_auc(self, weights: Floats) -> float:
        """The area under the precision-recall curve; NaN without positives."""
        return _areas(self.order, self.starts, self.truth, weights)[1]

    def auc(self, weights: Floats) -> float:
        """The chance that a positive scores above a negative; NaN without either."""
        return _areas(self.order, self.starts, self.truth, weights)[0]

    def brier(self, weights: Floats) -> float:
        """The mean square of score less truth; NaN for mere ranks."""
        if not self.is_probability:
            return float("nan")
        return float(weights @ self._squares / weights.sum())

    def recall(self, weights: Floats, share: float) -> float:
        """The share of positives among this share of the rows, those with the highest scores."""
        positives, every = self._groups(weights)
        found, seen = np.cumsum(positives), np.cumsum(every)
        with np.errstate(invalid="ignore", divide="ignore"):
            wanted = np.array([share * seen[-1]])
            taken: Floats = np.interp(wanted, np.append(0.0, seen), np.append(0.0, found))
            return float(taken[0] / found[-1])

    def calibration_error(self, weights: Floats) -> float:
        """The mean distance of score and rate over tenths of the rows; NaN for mere ranks."""
        if not self.is_probability:
            return float("nan")
        errors = [
            abs((weights[part] * (self.scores[part] - self.truth[part])).sum())
            for part in np.array_split(self.order, 10)
        ]
        return float(sum(errors) / weights.sum())

    def score_less_rate(self, weights: Floats) -> float:
        """The mean score less the rate of positives: above 0 scores are too high."""
        return float((weights * (self.scores - self.truth)).sum() / weights.sum())

    @cached_property
    def _squares(self) -> Floats:
        return (self.scores - self.truth) ** 2

    def _groups(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights of positives and of all rows at each distinct score, the highest first."""
        ordered = weights[self.order]
        positives = np.add.reduceat(ordered * self.truth[self.order], self.starts)
        return positives, np.add.reduceat(ordered, self.starts)


Measure = Callable[[Floats], float]


def drawn(
    measures: Mapping[str, Measure], weights: Floats, seed: int, resamples: int = RESAMPLES
) -> dict[str, Drawn]:
    """Each measure of the rows' weights (n,), and of as many resamples; the same for all of them.

    A resample draws n of the rows with replacement (Efron and Tibshirani 1993), by the seed.
    """
    found: dict[str, list[float]] = {name: [] for name in measures}
    for sample in _samples(weights, seed, resamples):
        for name, measure in measures.items():
            found[name].append(measure(sample))
    return {
        name: Drawn(measure(weights), np.array(found[name])) for name, measure in measures.items()
    }


def resampled(measures: Mapping[str, Measure], weights: Floats, seed: int) -> dict[str, Figure]:
    """Each measure of the rows' weights (n,), with its bounds over RESAMPLES of the rows."""
    return {name: each.figure() for name, each in drawn(measures, weights, seed).items()}


def _samples(weights: Floats, seed: int, resamples: int) -> Iterator[Floats]:
    """The weights times how often each row is drawn, one sample after the other."""
    random, rows = np.random.default_rng(seed), len(weights)
    for _ in range(resamples):
        yield weights * np.bincount(random.integers(0, rows, rows), minlength=rows)


@numba.njit(cache=True, nogil=True)
def _areas(
    order: NDArray[np.int64], starts: NDArray[np.int64], truth: Floats, weights: Floats
) -> tuple[float, float]:
    """Areas under the ROC and the precision-recall curve, in one walk down the scores."""
    positives = seen = above = precise = 0.0
    for group in range(len(starts)):
        end = starts[group + 1] if group + 1 < len(starts) else len(order)
        added = added_positives = 0.0
        for place in range(starts[group], end):
            row = order[place]
            added += float(weights[row])
            added_positives += float(weights[row] * truth[row])
        above += (added - added_positives) * (positives + added_positives / 2)
        positives += added_positives
        seen += added
        if added_positives > 0.0:
            precise += positives / seen * added_positives
    negatives = seen - positives
    auc = above / (positives * negatives) if positives > 0.0 and negatives > 0.0 else np.nan
    return auc, precise / positives if positives > 0.0 else np.nan
