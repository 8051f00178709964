"""scikit-learn's histogram gradient boosting: fits with one thread, and reads its trees."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from tiebreak.training.evaluate import log_loss
from tiebreak.training.fit import Parameters, Progress, Rows
from tiebreak.training.split_trees import SplitTree, contributions, lightgbm_text, to_forest
from tiebreak.training.trees import Forest

_ROWS_A_WEIGHT = 4.0  # the hessian of a row is at most a quarter


class HistogramBooster:
    """A `log_loss` booster; see `training.fit.Booster`. It draws no rows: `row_share` is unused."""

    library = "scikit-learn"
    part = "model.txt"

    def __init__(self, native: Any) -> None:
        self.native = native

    @classmethod
    def fit(
        cls, training: Rows, tuning: Rows, parameters: Parameters, progress: Progress
    ) -> HistogramBooster:
        """A booster cut off at the round that was best on the tuning rows."""
        grow: Any = HistGradientBoostingClassifier  # its types are guessed from its defaults
        native: Any = grow(
            learning_rate=parameters.learning_rate,
            max_iter=parameters.rounds,
            max_depth=parameters.max_depth,
            max_leaf_nodes=None,
            min_samples_leaf=max(1, round(parameters.min_child_weight * _ROWS_A_WEIGHT)),
            l2_regularization=parameters.l2,
            max_features=parameters.feature_share,
            early_stopping=True,
            n_iter_no_change=parameters.patience_rounds,
            random_state=parameters.seed,
        )
        with threadpool_limits(limits=1):  # more threads add histograms in another order
            native.fit(
                training.x,
                training.y,
                sample_weight=training.weights,
                X_val=tuning.x,
                y_val=tuning.y,
                sample_weight_val=tuning.weights,
            )
            losses = [
                log_loss(margins.reshape(-1), tuning.y, tuning.weights)
                for margins in native.staged_decision_function(tuning.x)
            ]
        native._predictors = native._predictors[: int(np.argmin(losses)) + 1]
        progress("fit", 1.0)
        return cls(native)

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw margins (n,)."""
        with threadpool_limits(limits=1):
            return np.asarray(self.native.decision_function(x), dtype=np.float64)

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values (n, f + 1), the base value last; scikit-learn has none, LightGBM has."""
        return contributions(self._trees, self._base, x)

    def forest(self) -> Forest:
        """The trees, in order of boosting."""
        return to_forest(self._trees, self._base, int(self.native.n_features_in_))

    def dump(self) -> bytes:
        """The trees in LightGBM's text format."""
        return lightgbm_text(self._trees, self._base, int(self.native.n_features_in_)).encode()

    @cached_property
    def _base(self) -> float:
        return float(self.native._baseline_prediction.reshape(-1)[0])

    @cached_property
    def _trees(self) -> list[SplitTree]:
        return [_tree(predictor.nodes) for (predictor,) in self.native._predictors]


def _tree(nodes: NDArray[Any]) -> SplitTree:
    is_leaf = nodes["is_leaf"].astype(np.bool_)
    assert not nodes["is_categorical"].any()
    return SplitTree(
        left=np.where(is_leaf, -1, nodes["left"].astype(np.int64)).astype(np.int32),
        right=np.where(is_leaf, -1, nodes["right"].astype(np.int64)).astype(np.int32),
        feature=nodes["feature_idx"].astype(np.int32),
        threshold=nodes["num_threshold"].astype(np.float64),
        missing_left=nodes["missing_go_to_left"].astype(np.bool_),
        value=nodes["value"].astype(np.float64),
        count=nodes["count"].astype(np.int64),
    )
