"""Margins and labels → a calibration table: isotonic steps, then lines between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.calibration import Calibrator

SMALLEST_STEP = 20.0  # weight of rows that a step stands on
_TAIL = 16.0  # margins beyond the outer knots over which the ends are approached


@dataclass(frozen=True)
class Step:
    """Rows that share one rate: their weight, the weight of positives, sum of weight x margin."""

    weight: float
    positives: float
    moment: float

    @property
    def margin(self) -> float:
        """The mean margin of the rows."""
        return self.moment / self.weight

    def with_(self, other: Step) -> Step:
        """Both steps as one."""
        return Step(
            self.weight + other.weight,
            self.positives + other.positives,
            self.moment + other.moment,
        )


def calibrate(
    margins: NDArray[np.float32], y: NDArray[np.float32], weights: NDArray[np.float64]
) -> Calibrator:
    """The calibration table of these rows (n,), which hold at least one of each class.

    Rows are pooled into isotonic steps (adjacent violators); a step's rate is drawn towards the
    base rate by the weight of one row, so that none is 0 or 1. Between the steps' mean margins
    the table is linear. Beyond the outer steps it goes half of the way that is left to 0 and
    to 1 within 16 units of margin, and stays there.
    """
    base_rate = float(np.average(y, weights=weights))
    steps: list[Step] = []
    for margin, label, weight in _by_margin(margins, y, weights):
        steps.append(Step(weight, weight * label, weight * margin))
        while len(steps) > 1 and not _rises(steps[-2], steps[-1], base_rate):
            last = steps.pop()
            steps[-1] = steps[-1].with_(last)
    while len(steps) > 1 and steps[-1].weight < SMALLEST_STEP:
        last = steps.pop()
        steps[-1] = steps[-1].with_(last)
    rates = [_rate(step, base_rate) for step in steps]
    knots = [step.margin for step in steps]
    return Calibrator(
        margins=np.array([knots[0] - _TAIL, *knots, knots[-1] + _TAIL]),
        probabilities=np.array([rates[0] / 2, *rates, (1.0 + rates[-1]) / 2]),
    )


def _by_margin(
    margins: NDArray[np.float32], y: NDArray[np.float32], weights: NDArray[np.float64]
) -> Iterator[tuple[float, float, float]]:
    order = np.argsort(margins, kind="stable")
    columns = (margins[order].tolist(), y[order].tolist(), weights[order].tolist())
    return zip(*columns, strict=True)


def _rises(low: Step, high: Step, base_rate: float) -> bool:
    is_wide = low.weight >= SMALLEST_STEP
    return is_wide and low.margin < high.margin and _rate(low, base_rate) < _rate(high, base_rate)


def _rate(step: Step, base_rate: float) -> float:
    return (step.positives + base_rate) / (step.weight + 1.0)
