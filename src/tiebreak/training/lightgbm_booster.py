"""LightGBM: fits with one thread, and reads its trees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.training.fit import Parameters, Progress, Rows
from tiebreak.training.openmp import provide_openmp
from tiebreak.training.trees import Forest, Tree, least_above

provide_openmp()

import lightgbm  # noqa: E402 - it loads OpenMP when imported
from lightgbm.callback import CallbackEnv  # noqa: E402

lgb: Any = lightgbm  # its types are incomplete

ZERO = float(np.float32(1e-35))  # LightGBM takes what is not further from 0 for 0
_IS_CATEGORY, _DEFAULT_LEFT, _MISSING_IS_ZERO, _MISSING_IS_NAN = 1, 2, 4, 8  # bits of decision_type


class LightgbmBooster:
    """A `binary` booster without categorical splits; see `training.fit.Booster`."""

    library = "lightgbm"
    part = "model.txt"

    def __init__(self, native: lightgbm.Booster) -> None:
        self.native = native

    @classmethod
    def fit(
        cls, training: Rows, tuning: Rows, parameters: Parameters, progress: Progress
    ) -> LightgbmBooster:
        """A booster cut off at the round that was best on the tuning rows."""
        settings = _settings(parameters)
        data = lgb.Dataset(training.x, training.y, weight=training.weights, params=settings)
        booster = lgb.train(
            settings,
            data,
            num_boost_round=parameters.rounds,
            valid_sets=[data.create_valid(tuning.x, tuning.y, weight=tuning.weights)],
            callbacks=[
                _reporter(progress),
                lgb.early_stopping(parameters.patience_rounds, verbose=False),
            ],
        )
        best = booster.model_to_string(num_iteration=booster.best_iteration)
        return cls(lgb.Booster(model_str=best))

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw margins (n,)."""
        return self._predict(x, raw_score=True)

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values (n, f + 1), the base value last."""
        return self._predict(x, pred_contrib=True)

    def forest(self) -> Forest:
        """The trees, in order of boosting; the first one's leaves hold the starting margin."""
        head, *blocks = self.native.model_to_string().split("\nTree=")
        return Forest(
            trees=tuple(_tree(_entries(block)) for block in blocks),
            base_margin=0.0,
            feature_count=int(_entries(head)["max_feature_idx"]) + 1,
        )

    def dump(self) -> bytes:
        """The booster in LightGBM's text format."""
        return self.native.model_to_string().encode()

    def _predict(self, x: NDArray[np.float32], **kind: bool) -> NDArray[np.float64]:
        native: Any = self.native
        return native.predict(x, num_threads=1, **kind)


def _settings(parameters: Parameters) -> dict[str, Any]:
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "max_depth": parameters.max_depth,
        "num_leaves": 2**parameters.max_depth,
        "learning_rate": parameters.learning_rate,
        "min_sum_hessian_in_leaf": parameters.min_child_weight,
        "bagging_fraction": parameters.row_share,
        "bagging_freq": 1,
        "feature_fraction": parameters.feature_share,
        "lambda_l2": parameters.l2,
        "seed": parameters.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }


def _reporter(progress: Progress) -> Callable[[CallbackEnv], None]:
    def report(env: CallbackEnv) -> None:
        progress("fit", (env.iteration + 1) / env.end_iteration)

    return report


def _entries(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    return {name: value for name, is_entry, value in pairs if is_entry}


def _tree(entries: Mapping[str, str]) -> Tree:
    """A tree from its entries in the text format, where splits and leaves are counted apart."""

    def column(name: str, dtype: type[np.generic]) -> NDArray[Any]:
        return np.array(entries[name].split(), dtype=dtype)

    decisions, splits = column("decision_type", np.int64), column("threshold", np.float64)
    leaves = column("leaf_value", np.float64)
    assert not (decisions & (_IS_CATEGORY | _MISSING_IS_ZERO)).any()
    no_child, at_leaves = np.full(len(leaves), -1), np.zeros(len(leaves))

    def children(name: str) -> NDArray[np.int32]:
        nodes = column(name, np.int64)  # a leaf is given as -1 - its number
        numbered = np.where(nodes < 0, len(splits) - 1 - nodes, nodes)
        return np.concatenate([numbered, no_child]).astype(np.int32)

    # where no training row lacked the feature, LightGBM takes a missing value for 0
    missing_left = np.where(decisions & _MISSING_IS_NAN, decisions & _DEFAULT_LEFT, splits >= 0.0)
    covers = [column("internal_count", np.float64), column("leaf_count", np.float64)]
    return Tree(
        left=children("left_child"),
        right=children("right_child"),
        feature=np.concatenate([column("split_feature", np.int64), at_leaves]).astype(np.int32),
        threshold=np.concatenate([least_above_zero(splits), at_leaves]).astype(np.float32),
        default_left=np.concatenate([missing_left, at_leaves]).astype(np.bool_),
        value=np.concatenate([np.zeros(len(splits)), leaves]).astype(np.float32),
        cover=np.concatenate(covers),
    )


def least_above_zero(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """`least_above` for a library to which no threshold parts the numbers that count as 0."""
    thresholds = np.where((thresholds >= 0) & (thresholds < ZERO), ZERO, thresholds)
    is_just_below = (thresholds < 0) & (thresholds >= -ZERO)
    return least_above(np.where(is_just_below, np.nextafter(-ZERO, -np.inf), thresholds))
