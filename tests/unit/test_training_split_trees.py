"""Trees of float64 splits as trees of float32 splits: the same side, at every value."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tiebreak.training.trees import least_above

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MOST = np.finfo(np.float32).max


@given(near=FLOATS, part=st.floats(-1, 1), beside=st.integers(-2, 2))
@example(near=0.0, part=0.0, beside=1)
@example(near=float(MOST), part=0.5, beside=0)
def test_values_around_a_threshold_take_the_same_side(
    near: float, part: float, beside: int
) -> None:
    x = np.float32(near)
    for _ in range(abs(beside)):
        x = np.nextafter(x, MOST if beside > 0 else -MOST)
    spacing = abs(float(np.nextafter(np.float32(near), MOST)) - near)
    threshold = near + part * spacing
    (border,) = least_above(np.array([threshold]))
    assert (x < border) == (float(x) <= threshold)


def test_beyond_float32_only_a_missing_value_goes_right() -> None:
    borders = least_above(np.array([np.inf, 1e300, -1e300]))
    assert (borders[:2] > MOST).all()
    assert not (np.array([-MOST, 0, MOST]) < borders[2]).any()
