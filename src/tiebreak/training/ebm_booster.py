"""Explainable boosting machine: a curve a feature, a few surfaces of pairs, written as trees."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tiebreak.errors import Unavailable
from tiebreak.training.fit import Parameters, Progress, Rows
from tiebreak.training.split_trees import SplitTree, contributions, lightgbm_text, to_forest
from tiebreak.training.trees import Forest

BINS, PAIR_BINS, PAIRS = 64, 8, 10  # so that no tree is deeper than 8
BAGS = 4
_ROUNDS_A_ROUND = 10  # its rounds are smaller: one feature each, of two leaves
_RATE_A_RATE = 0.15


class EbmMissing(Unavailable):
    """The package interpret-core is not installed."""

    code = "ebm_missing"


def is_installed() -> bool:
    """Whether this family can train here."""
    return importlib.util.find_spec("interpret") is not None


class EbmBooster:
    """An additive model; see `training.fit.Booster`. It stops on rows of its own choice."""

    library = "interpret-core"
    part = "model.txt"

    def __init__(self, native: Any) -> None:
        self.native = native

    @classmethod
    def fit(
        cls, training: Rows, _tuning: Rows, parameters: Parameters, progress: Progress
    ) -> EbmBooster:
        """A model of the training rows; EbmMissing."""
        if not is_installed():
            raise EbmMissing(hint="Install the extra `ebm`.")
        from interpret.glassbox import ExplainableBoostingClassifier

        width = training.x.shape[1]
        native: Any = ExplainableBoostingClassifier(
            feature_types=["continuous"] * width,
            max_bins=BINS,
            max_interaction_bins=PAIR_BINS,
            interactions=min(PAIRS, width * (width - 1) // 2),
            outer_bags=BAGS,
            learning_rate=parameters.learning_rate * _RATE_A_RATE,
            max_rounds=parameters.rounds * _ROUNDS_A_ROUND,
            min_hessian=parameters.min_child_weight,
            reg_lambda=parameters.l2,
            n_jobs=1,
            random_state=parameters.seed,
        )
        with threadpool_limits(limits=1), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # it says that its own drawings leave out missing values
            native.fit(
                training.x.astype(np.float64),
                training.y.astype(np.int64),
                sample_weight=training.weights,
            )
        progress("fit", 1.0)
        return cls(native)

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw margins (n,)."""
        return np.asarray(self.native.decision_function(x.astype(np.float64)), dtype=np.float64)

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values (n, f + 1) of its trees, the base value last, by LightGBM."""
        return contributions(self._trees, self._base, x)

    def forest(self) -> Forest:
        """A tree a curve, a tree a surface."""
        return to_forest(self._trees, self._base, int(self.native.n_features_in_))

    def dump(self) -> bytes:
        """The trees in LightGBM's text format."""
        return lightgbm_text(self._trees, self._base, int(self.native.n_features_in_)).encode()

    @cached_property
    def _base(self) -> float:
        return float(np.asarray(self.native.intercept_).reshape(-1)[0])

    @cached_property
    def _trees(self) -> list[SplitTree]:
        native = self.native
        terms = zip(native.term_features_, native.term_scores_, native.bin_weights_, strict=True)
        return [
            _term(features, [_cuts(native.bins_, f, len(features)) for f in features], *tables)
            for features, *tables in terms
            if np.ptp(tables[0]) > 0.0
        ]


def _cuts(bins: Sequence[Sequence[Any]], feature: int, dimensions: int) -> NDArray[np.float64]:
    """Where a feature is cut, for terms of so many features; coarser where it has several."""
    levels = bins[feature]
    return np.asarray(levels[min(dimensions, len(levels)) - 1], dtype=np.float64)


def _term(
    features: Sequence[int],
    cuts: Sequence[NDArray[np.float64]],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> SplitTree:
    """A table of scores as a tree. Each axis has a place for missing, its bins, and for unseen."""
    grown = _Grown()
    grown.split_missing(list(features), list(cuts), scores, weights)
    return grown.tree()


class _Grown:
    """Nodes in the order in which they are made, so that children follow their parents."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def split_missing(
        self,
        features: list[int],
        cuts: list[NDArray[np.float64]],
        scores: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> int:
        """A subtree for the first axis of the tables: given values to the left, missing right."""
        if not features:
            return self._add(count=float(weights), value=float(scores))
        node = self._add(count=float(weights.sum()), feature=features[0], threshold=np.inf)
        left = self._split(features, cuts, scores, weights, 1, len(cuts[0]) + 2)
        right = self.split_missing(features[1:], cuts[1:], scores[0], weights[0])
        return self._join(node, left, right)

    def _split(
        self,
        features: list[int],
        cuts: list[NDArray[np.float64]],
        scores: NDArray[np.float64],
        weights: NDArray[np.float64],
        first: int,
        end: int,
    ) -> int:
        """A subtree for the bins from `first` to `end` of the first axis."""
        if end - first == 1:
            return self.split_missing(features[1:], cuts[1:], scores[first], weights[first])
        middle = (first + end) // 2
        below = np.nextafter(cuts[0][middle - 2], -np.inf)  # its bins begin at their cuts
        count = float(weights[first:end].sum())
        node = self._add(count=count, feature=features[0], threshold=float(below))
        left = self._split(features, cuts, scores, weights, first, middle)
        right = self._split(features, cuts, scores, weights, middle, end)
        return self._join(node, left, right)

    def tree(self) -> SplitTree:
        """The tree, with counts that are whole and add up."""
        left, right, feature, threshold, value, weight = np.array(self._rows).T
        count = np.maximum(1, np.rint(weight)).astype(np.int64)
        children = left.astype(np.int32), right.astype(np.int32)
        for node in range(len(count) - 1, -1, -1):
            if children[0][node] >= 0:
                count[node] = count[children[0][node]] + count[children[1][node]]
        return SplitTree(
            left=children[0],
            right=children[1],
            feature=feature.astype(np.int32),
            threshold=threshold,
            missing_left=np.zeros(len(count), dtype=np.bool_),
            value=value,
            count=count,
        )

    def _add(
        self, *, count: float, feature: int = 0, threshold: float = 0.0, value: float = 0.0
    ) -> int:
        self._rows.append([-1, -1, feature, threshold, value, count])
        return len(self._rows) - 1

    def _join(self, node: int, left: int, right: int) -> int:
        self._rows[node][:2] = [left, right]
        return node
