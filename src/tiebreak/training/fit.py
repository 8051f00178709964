"""Fits the trees: XGBoost, one thread, stopped early on later rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from xgboost.callback import TrainingCallback

Progress = Callable[[str, float], None]
DEEPEST = 8  # explanation tables double with each level


@dataclass(frozen=True)
class Parameters:
    """How to train; all of it stands in the manifest.

    Rows with `as_of` and label known before `valid_from` train, the last `tune_share` of them in
    time stop the training and calibrate; rows from `valid_from` on only evaluate.
    """

    valid_from: datetime
    seed: int = 0
    rounds: int = 300
    patience_rounds: int = 30
    max_depth: int = 6
    learning_rate: float = 0.1
    min_child_weight: float = 5.0
    row_share: float = 0.9
    feature_share: float = 0.9
    l2: float = 1.0
    tune_share: float = 0.2


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows for fitting: features x (n, f), targets y (n,), weights (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    weights: NDArray[np.float64]

    def as_xgboost(self) -> xgb.DMatrix:
        """The same rows as XGBoost takes them."""
        return xgb.DMatrix(self.x, label=self.y, weight=self.weights, nthread=1)


def fit(training: Rows, tuning: Rows, parameters: Parameters, progress: Progress) -> xgb.Booster:
    """A binary logistic booster, cut off at the round that was best on the tuning rows."""
    booster = xgb.train(
        _settings(training, parameters),
        training.as_xgboost(),
        num_boost_round=parameters.rounds,
        evals=[(tuning.as_xgboost(), "tuning")],
        early_stopping_rounds=parameters.patience_rounds,
        verbose_eval=False,
        callbacks=[_Reporter(parameters.rounds, progress)],
    )
    best = booster[: booster.best_iteration + 1]
    best.set_attr(best_iteration=None, best_score=None)
    return best


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
