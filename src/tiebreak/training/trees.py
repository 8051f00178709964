"""The trees of a trained booster, as plain arrays, whatever library grew them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree; node 0 is its root, and `left` is -1 at a leaf.

    A row goes left where `feature < threshold` in float32, and where the feature is NaN and
    `default_left`. `cover` is the weight of the training rows that reached the node, as the
    library's own explanations weigh them: XGBoost's sum of hessians, LightGBM's number of rows.
    All arrays have one entry a node, children after their parents; `value` counts only at leaves.
    """

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.bool_]
    value: NDArray[np.float32]
    cover: NDArray[np.float64]

    @property
    def leaves(self) -> NDArray[np.int64]:
        """Numbers of the leaf nodes, ascending."""
        return np.flatnonzero(self.left < 0)


def least_above(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """For each threshold t the least float32 x that does not go left, where `x <= t` does.

    So t is rounded down to float32 and the next number taken; rounding to the nearest would let
    rows change sides.
    """
    with np.errstate(over="ignore"):
        nearest = thresholds.astype(np.float32)
        above = np.nextafter(nearest, np.float32(np.inf))
    return np.where(nearest > thresholds, nearest, above)


@dataclass(frozen=True, eq=False)
class Forest:
    """The trees of a binary logistic booster and the margin they start from."""

    trees: tuple[Tree, ...]
    base_margin: float
    feature_count: int
