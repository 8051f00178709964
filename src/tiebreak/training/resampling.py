"""Figures of scores with intervals: the same resampled rows for all that are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 200
_LOW, _HIGH = 0.025, 0.975


class Figure(TypedDict):
    """A figure on the rows as they are, and the bounds of 95% of resamples."""

    value: float
    low: float
    high: float


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
        positives, every = self._groups(weights)
        found, seen = np.cumsum(positives), np.cumsum(every)
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.nansum(found / seen * positives) / found[-1])

    def auc(self, weights: Floats) -> float:
        """The chance that a positive scores above a negative; NaN without either."""
        positives, every = self._groups(weights)
        negatives = every - positives
        above = np.cumsum(positives) - positives
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = positives.sum() * negatives.sum()
            return float((negatives * (above + positives / 2)).sum() / whole)

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

    def _groups(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights of positives and of all rows at each distinct score, the highest first."""
        ordered = weights[self.order]
        positives = np.add.reduceat(ordered * self.truth[self.order], self.starts)
        return positives, np.add.reduceat(ordered, self.starts)


Measure = Callable[[Floats], float]


def resampled(measures: Mapping[str, Measure], weights: Floats, seed: int) -> dict[str, Figure]:
    """Each measure of the rows' weights (n,), with its bounds over RESAMPLES of the rows."""
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for sample in _samples(weights, seed):
        for name, measure in measures.items():
            drawn[name].append(measure(sample))
    return {name: _figure(measure(weights), drawn[name]) for name, measure in measures.items()}


def difference(one: Measure, other: Measure) -> Measure:
    """What one measure is more than another, on the same resampled rows."""
    return lambda weights: one(weights) - other(weights)


def _samples(weights: Floats, seed: int) -> Iterator[Floats]:
    """The weights times how often each row is drawn, one sample after the other."""
    random, rows = np.random.default_rng(seed), len(weights)
    for _ in range(RESAMPLES):
        yield weights * np.bincount(random.integers(0, rows, rows), minlength=rows)


def _figure(value: float, drawn: list[float]) -> Figure:
    told = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.quantile(told, [_LOW, _HIGH]) if len(told) else (np.nan, np.nan)
    return Figure(value=value, low=float(low), high=float(high))
