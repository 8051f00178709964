"""LightGBM's decisions on float64 thresholds, as decisions on float32 ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tiebreak.training.lightgbm_booster import ZERO, least_above_zero

MOST = np.finfo(np.float32).max
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def goes_left(x: np.float32, threshold: float) -> bool:
    """What LightGBM does with a value that is not missing."""
    return (0.0 if abs(float(x)) <= ZERO else float(x)) <= threshold


def neighbours(x: np.float32) -> list[np.float32]:
    """Three float32 numbers below x, x, and three above, none beyond the last finite one."""
    row = [x]
    for _ in range(3):
        row.insert(0, np.nextafter(row[0], -MOST))
        row.append(np.nextafter(row[-1], MOST))
    return row


@given(near=FLOATS, part=st.floats(-1, 1))
@example(near=0.0, part=0.0)
@example(near=float(np.float32(-1e-35)), part=0.0)
@example(near=float(np.float32(1e-35)), part=0.0)
@example(near=float(MOST), part=0.5)
@example(near=float(-MOST), part=-0.5)
def test_values_around_a_threshold_take_the_same_side(near: float, part: float) -> None:
    around = neighbours(np.float32(near))
    threshold = near + part * (float(around[4]) - float(around[2]))
    (border,) = least_above_zero(np.array([threshold]))
    for x in around:
        assert (x < border) == goes_left(x, threshold), (x, threshold)


@pytest.mark.parametrize(("threshold", "is_left"), [(1e300, True), (-1e300, False)])
def test_a_threshold_beyond_float32_parts_no_values(threshold: float, is_left: bool) -> None:
    (border,) = least_above_zero(np.array([threshold]))
    ends = np.array([-MOST, 0, MOST])
    assert ((ends < border) == is_left).all()
