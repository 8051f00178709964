"""Logistic regression on the same features: a yardstick that is judged, and cannot be served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import QuantileTransformer
from threadpoolctl import threadpool_limits

from tiebreak.core.matrix import FIRST_KNOWN, FeatureSpec
from tiebreak.training.fit import Parameters, Rows

_ITERATIONS = 300
_QUANTILES = 100


class LinearYardstick:
    """Numbers by rank, imputed with the median and marked; categories one-hot; texts by score."""

    def __init__(self, specs: Sequence[FeatureSpec], scale: Any, regression: Any) -> None:
        self._specs = specs
        self._scale = scale
        self._regression = regression

    @classmethod
    def fit(
        cls, specs: Sequence[FeatureSpec], training: Rows, parameters: Parameters
    ) -> LinearYardstick:
        """A regression of the training rows."""
        numbers = _numbers(specs)
        scale: Any = QuantileTransformer(
            n_quantiles=min(_QUANTILES, len(training.x)), random_state=parameters.seed
        )
        if numbers:
            scale.fit(training.x[:, numbers])
        regression: Any = LogisticRegression(C=1.0 / parameters.l2, max_iter=_ITERATIONS)
        made = cls(specs, scale, regression)
        with threadpool_limits(limits=1):
            regression.fit(made._design(training.x), training.y, sample_weight=training.weights)
        return made

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw margins (n,) of the rows of x (n, f)."""
        with threadpool_limits(limits=1):
            return np.asarray(self._regression.decision_function(self._design(x)))

    def _design(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        columns: list[NDArray[np.float64]] = []
        numbers = _numbers(self._specs)
        if numbers:
            scaled = np.asarray(self._scale.transform(x[:, numbers]), dtype=np.float64)
            is_missing = np.isnan(scaled)
            columns += [np.where(is_missing, 0.5, scaled) - 0.5, is_missing.astype(np.float64)]
        for place, spec in enumerate(self._specs):
            if spec.kind == "category":
                codes = np.arange(FIRST_KNOWN + len(spec.categories))
                columns.append((x[:, place, None] == codes).astype(np.float64))
            elif spec.kind == "text":
                columns.append(np.nan_to_num(x[:, place, None].astype(np.float64)))
        return np.concatenate(columns, axis=1)


def _numbers(specs: Sequence[FeatureSpec]) -> list[int]:
    return [place for place, spec in enumerate(specs) if spec.kind == "number"]
