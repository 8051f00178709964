"""XGBoost: fits with one thread, and reads its trees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import xgboost as xgb
from numpy.typing import NDArray
from xgboost.callback import TrainingCallback

from tiebreak.training.fit import Parameters, Progress, Rows
from tiebreak.training.trees import Forest, Tree


class XgboostBooster:
    """A `binary:logistic` booster; see `training.fit.Booster`."""

    library = "xgboost-cpu"
    part = "model.ubj"

    def __init__(self, native: xgb.Booster) -> None:
        self.native = native

    @classmethod
    def fit(
        cls, training: Rows, tuning: Rows, parameters: Parameters, progress: Progress
    ) -> XgboostBooster:
        """A booster cut off at the round that was best on the tuning rows."""
        booster = xgb.train(
            _settings(training, parameters),
            _matrix(training),
            num_boost_round=parameters.rounds,
            evals=[(_matrix(tuning), "tuning")],
            early_stopping_rounds=parameters.patience_rounds,
            verbose_eval=False,
            callbacks=[_Reporter(parameters.rounds, progress)],
        )
        best = booster[: booster.best_iteration + 1]
        best.set_attr(best_iteration=None, best_score=None)
        return cls(best)

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw margins (n,)."""
        return self.native.predict(xgb.DMatrix(x, nthread=1), output_margin=True)

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """SHAP values (n, f + 1), the base value last."""
        return self.native.predict(xgb.DMatrix(x, nthread=1), pred_contribs=True)

    def forest(self) -> Forest:
        """The trees, in order of boosting."""
        learner: dict[str, Any] = orjson.loads(bytes(self.native.save_raw("json")))["learner"]
        parameters = learner["learner_model_param"]
        base_score = float(str(parameters["base_score"]).strip("[]"))
        raw_trees: list[dict[str, Any]] = learner["gradient_booster"]["model"]["trees"]
        return Forest(
            trees=tuple(_tree(raw) for raw in raw_trees),
            base_margin=math.log(base_score / (1.0 - base_score)),
            feature_count=int(parameters["num_feature"]),
        )

    def dump(self) -> bytes:
        """The booster in UBJSON."""
        return bytes(self.native.save_raw("ubj"))


def _matrix(rows: Rows) -> xgb.DMatrix:
    return xgb.DMatrix(rows.x, label=rows.y, weight=rows.weights, nthread=1)


def _settings(training: Rows, parameters: Parameters) -> dict[str, Any]:
    return {
        "objective": "binary:logistic",
        "eval_metric": "logloss",
        "tree_method": "hist",
        "max_depth": parameters.max_depth,
        "learning_rate": parameters.learning_rate,
        "min_child_weight": parameters.min_child_weight,
        "subsample": parameters.row_share,
        "colsample_bytree": parameters.feature_share,
        "lambda": parameters.l2,
        "seed": parameters.seed,
        "base_score": float(np.average(training.y, weights=training.weights)),
        "nthread": 1,  # more threads add histograms in another order: other bits
    }


class _Reporter(TrainingCallback):
    def __init__(self, rounds: int, progress: Progress) -> None:
        self._rounds = rounds
        self._progress = progress

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
        """Reports the share of rounds that are done; never stops the training."""
        self._progress("fit", (epoch + 1) / self._rounds)
        return False


def _tree(raw: dict[str, Any]) -> Tree:
    conditions = np.asarray(raw["split_conditions"], dtype=np.float32)
    return Tree(
        left=np.asarray(raw["left_children"], dtype=np.int32),
        right=np.asarray(raw["right_children"], dtype=np.int32),
        feature=np.asarray(raw["split_indices"], dtype=np.int32),
        threshold=conditions,
        default_left=np.asarray(raw["default_left"], dtype=np.bool_),
        value=conditions,  # XGBoost keeps a leaf's value where a split keeps its threshold
        cover=np.asarray(raw["sum_hessian"], dtype=np.float64),
    )
