"""The trees of a trained XGBoost booster, as plain arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import xgboost as xgb
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Tree:
    """One tree; node 0 is its root, and `left` is -1 at a leaf.

    A row goes left where `feature < threshold` in float32, and where the feature is NaN and
    `default_left`. `cover` is the sum of hessians of the training rows that reached the node.
    All arrays have one entry a node; `value` counts only at leaves.
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


@dataclass(frozen=True, eq=False)
class Forest:
    """The trees of a binary logistic booster and the margin they start from."""

    trees: tuple[Tree, ...]
    base_margin: float
    feature_count: int


def read_forest(booster: xgb.Booster) -> Forest:
    """The trees of a `binary:logistic` booster, in order of boosting."""
    learner: dict[str, Any] = orjson.loads(bytes(booster.save_raw("json")))["learner"]
    parameters = learner["learner_model_param"]
    base_score = float(str(parameters["base_score"]).strip("[]"))
    raw_trees: list[dict[str, Any]] = learner["gradient_booster"]["model"]["trees"]
    return Forest(
        trees=tuple(_tree(raw) for raw in raw_trees),
        base_margin=math.log(base_score / (1.0 - base_score)),
        feature_count=int(parameters["num_feature"]),
    )


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
