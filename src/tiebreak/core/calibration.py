"""Calibrated probabilities: a monotone piecewise-linear table over margins.

Only comparisons, one subtraction, one multiplication and one addition a value stand between a
margin and its probability, so the bits are the same on every CPU and in every batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
from numpy.typing import NDArray

from tiebreak.core.workflow import Cuts
from tiebreak.errors import IntegrityFailure


class CalibratorMalformed(IntegrityFailure):
    """The calibration table does not rise strictly from knot to knot."""

    code = "calibrator_malformed"


@dataclass(frozen=True, eq=False)
class Calibrator:
    """Knots (k ≥ 2,) of a strictly rising function; beyond its ends the end values hold."""

    margins: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        margins, probabilities = self.margins, self.probabilities
        if not (
            len(margins) == len(probabilities) >= 2
            and np.isfinite(margins).all()
            and (np.diff(margins) > 0).all()
            and (np.diff(probabilities) > 0).all()
            and probabilities[0] >= 0.0
            and probabilities[-1] <= 1.0
        ):
            raise CalibratorMalformed

    def scores(self, margins: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probabilities (n,) of margins (n,); never falling with the margin, NaN for NaN."""
        value = margins.astype(np.float64)
        segment = np.searchsorted(self.margins, value, side="right") - 1
        segment = np.clip(segment, 0, len(self.margins) - 2)
        low, high = self.probabilities[segment], self.probabilities[segment + 1]
        line = low + (value - self.margins[segment]) * self._slopes[segment]
        return np.clip(line, low, high)  # rounding may not lift a segment's end over the next

    def margin_cut(self, probability: float) -> float:
        """The least float32 margin whose score reaches `probability`.

        -inf when every margin reaches it, inf when none does: `margin >= cut` holds exactly
        where `score >= probability` does.
        """
        if probability <= self.probabilities[0]:
            return float("-inf")
        if probability > self.probabilities[-1]:
            return float("inf")
        low, high = _rank(np.float32(np.finfo(np.float32).min)), _rank(np.finfo(np.float32).max)
        while low < high:
            middle = (low + high) // 2
            score = self.scores(np.array([_from_rank(middle)], dtype=np.float32))[0]
            low, high = (low, middle) if score >= probability else (middle + 1, high)
        return float(_from_rank(low))

    def margin_cuts(self, cuts: Cuts) -> tuple[float, float, float]:
        """The probability cuts of the bands as margins; see `margin_cut`."""
        medium, high, critical = map(self.margin_cut, (cuts.medium, cuts.high, cuts.critical))
        return medium, high, critical

    def dump(self) -> bytes:
        """The table as JSON."""
        return orjson.dumps(
            {"margins": self.margins.tolist(), "probabilities": self.probabilities.tolist()}
        )

    @classmethod
    def load(cls, data: bytes) -> Calibrator:
        """The table in `data`; CalibratorMalformed when it is none."""
        try:
            table = orjson.loads(data)
            margins = np.array(table["margins"], dtype=np.float64)
            probabilities = np.array(table["probabilities"], dtype=np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise CalibratorMalformed(hint=str(error)) from error
        return cls(margins, probabilities)

    @cached_property
    def _slopes(self) -> NDArray[np.float64]:
        return np.diff(self.probabilities) / np.diff(self.margins)


def _rank(value: np.float32) -> int:
    """The place of a finite float32 among all of them: rises with the value."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _from_rank(rank: int) -> np.float32:
    bits = rank if rank >= 0 else (-rank) | 0x80000000
    return np.uint32(bits).view(np.float32)
