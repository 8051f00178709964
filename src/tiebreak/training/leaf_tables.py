"""The compiled loop of `training.tables`: what one leaf adds for every pattern of decisions."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True)
def shapley_values(value: float, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """SHAP values (2^d, d) of a leaf for each set of features whose conditions are met.

    Bit k of the line's number says whether the conditions on feature k are met; `shares` (d,)
    are the shares of training cover that meet them.
    """
    count = len(shares)
    weights = np.empty(count, np.float64)  # s! (d - 1 - s)! / d!
    choices = 1.0
    for size in range(count):
        weights[size] = 1.0 / (count * choices)
        choices = choices * (count - 1 - size) / (size + 1)
    result = np.empty((1 << count, count), np.float64)
    terms = np.empty(count + 1, np.float64)  # coefficients of t^s
    for met in range(1 << count):
        for feature in range(count):
            terms[:] = 0.0
            terms[0] = 1.0
            degree = 0
            for other in range(count):
                if other == feature:
                    continue
                if (met >> other) & 1:
                    degree += 1
                    for power in range(degree, 0, -1):
                        terms[power] = terms[power] * shares[other] + terms[power - 1]
                    terms[0] *= shares[other]
                else:
                    for power in range(degree + 1):
                        terms[power] *= shares[other]
            total = 0.0
            for power in range(degree + 1):
                total += terms[power] * weights[power]
            is_met = float((met >> feature) & 1)
            result[met, feature] = value * (is_met - shares[feature]) * total
    return result


@numba.njit(cache=True)
def add_leaf(
    table: NDArray[np.float64],
    value: float,
    shares: NDArray[np.float64],
    rows: NDArray[np.int64],
    bits: NDArray[np.int64],
    wanted: NDArray[np.int64],
    conditions: NDArray[np.int64],
) -> None:
    """Adds a leaf's SHAP values to its group's `table` (features, 2^nodes).

    rows: (d,) the table's row of each feature on the path. For each step of the path, bits is
    the place of its decision in the pattern, wanted the decision (1 is left) that leads to the
    leaf, conditions which of the d features it is a condition on.
    """
    by_set = shapley_values(value, shares)
    count = len(shares)
    for pattern in range(table.shape[1]):
        met = (1 << count) - 1
        for step in range(len(bits)):
            if ((pattern >> bits[step]) & 1) != wanted[step]:
                met &= ~(1 << conditions[step])
        for feature in range(count):
            table[rows[feature], pattern] += by_set[met, feature]
