"""How good scores are: ranking, calibration, and their base rate; plain data for JSON."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BAND_POINTS = 1_000_000.0  # more than points can add up to
_LEAST_PROBABILITY = 1e-15  # keeps the logarithm finite


class Bin(TypedDict):
    """One tenth of the rows by score: its mean score beside its rate of positives."""

    rows: int
    lowest: float
    highest: float
    mean_score: float
    positive_rate: float


class Metrics(TypedDict):
    """The figures of one set of rows; rankings are None where only one class is present."""

    rows: int
    positives: int
    base_rate: float
    mean_score: float
    auc: float | None
    pr_auc: float | None
    log_loss: float
    brier: float
    calibration: list[Bin]


def evaluate(scores: Floats, y: NDArray[np.float32], weights: Floats) -> Metrics:
    """The figures of scores (n ≥ 1,) against labels y (n,) of 0 and 1, weighted by row."""
    truth = y.astype(np.float64)
    has_both = bool(truth.min() != truth.max())
    safe = np.clip(scores, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
    losses = -(truth * np.log(safe) + (1.0 - truth) * np.log1p(-safe))
    return Metrics(
        rows=len(scores),
        positives=int(truth.sum()),
        base_rate=_mean(truth, weights),
        mean_score=_mean(scores, weights),
        auc=roc_auc(scores, truth, weights) if has_both else None,
        pr_auc=average_precision(scores, truth, weights) if has_both else None,
        log_loss=_mean(losses, weights),
        brier=_mean((scores - truth) ** 2, weights),
        calibration=_calibration(scores, truth, weights),
    )


def log_loss(margins: Floats, y: NDArray[np.float32], weights: Floats) -> float:
    """The mean logarithmic loss of margins (n,), not calibrated."""
    return _mean(np.logaddexp(0.0, np.where(y > 0, -margins, margins)), weights)


def verdict_order(bands: NDArray[np.integer], points: NDArray[np.integer]) -> Floats:
    """Rules' verdicts (n,) as a score that ranks by band, and within a band by points."""
    return bands.astype(np.float64) * _BAND_POINTS + points


def roc_auc(scores: Floats, truth: Floats, weights: Floats) -> float:
    """The chance that a positive scores above a negative, ties counting half."""
    positives, negatives = _by_distinct_score(scores, truth, weights)
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / (positives.sum() * negatives.sum()))


def average_precision(scores: Floats, truth: Floats, weights: Floats) -> float:
    """The area under the precision-recall curve: sum of precision x step of recall."""
    positives, negatives = (part[::-1] for part in _by_distinct_score(scores, truth, weights))
    found = np.cumsum(positives)
    precision = found / (found + np.cumsum(negatives))
    return float((precision * positives).sum() / positives.sum())


def _by_distinct_score(scores: Floats, truth: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and of negatives at each distinct score, ascending."""
    distinct, place = np.unique(scores, return_inverse=True)
    positives, negatives = np.zeros(len(distinct)), np.zeros(len(distinct))
    np.add.at(positives, place, truth * weights)
    np.add.at(negatives, place, (1.0 - truth) * weights)
    return positives, negatives


def _calibration(scores: Floats, truth: Floats, weights: Floats) -> list[Bin]:
    parts = np.array_split(np.argsort(scores, kind="stable"), 10)
    return [
        Bin(
            rows=len(part),
            lowest=float(scores[part[0]]),
            highest=float(scores[part[-1]]),
            mean_score=_mean(scores[part], weights[part]),
            positive_rate=_mean(truth[part], weights[part]),
        )
        for part in parts
        if len(part)
    ]


def _mean(values: Floats, weights: Floats) -> float:
    return float(np.average(values, weights=weights))
