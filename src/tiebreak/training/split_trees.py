"""Trees of float64 splits: what scikit-learn grows and what additive models are written as.

They become trees of float32 splits, exactly; and a model in LightGBM's text format, which is what
a bundle keeps of them (neither library has a file of its own that is not executable) and whose
contributions are the ones that ours are checked against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.training.trees import Forest, Tree, least_above

_TAIL = "\nfeature_importances:\n\nparameters:\nend of parameters\n\npandas_categorical:null\n"
_NUMERIC_MISSING_NAN, _DEFAULT_LEFT = 8, 2  # bits of LightGBM's decision_type


@dataclass(frozen=True, eq=False)
class SplitTree:
    """One tree; node 0 is its root, `left` is -1 at a leaf, children come after their parents.

    A row goes left where `feature <= threshold` in float64, and where the feature is NaN and
    `missing_left`. `count` are the training rows that reached the node, at least 1.
    """

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    count: NDArray[np.int64]


def to_forest(trees: Sequence[SplitTree], base_margin: float, feature_count: int) -> Forest:
    """The trees as they are exported: the same side for every float32 value."""
    return Forest(tuple(map(_tree, trees)), base_margin, feature_count)


def contributions(
    trees: Sequence[SplitTree], base_margin: float, x: NDArray[np.float32]
) -> NDArray[np.float64]:
    """SHAP values (n, f + 1) of the rows of x (n, f) as LightGBM computes them, base value last.

    Features and thresholds go by their places in the order of thresholds, because LightGBM takes
    numbers close to 0 for 0.
    """
    from tiebreak.training.lightgbm_booster import lgb

    places = np.full(x.shape, np.nan)
    placed = list(trees)
    for feature in range(x.shape[1]):
        uses = [(tree.left >= 0) & (tree.feature == feature) for tree in placed]
        every = [tree.threshold[used] for tree, used in zip(placed, uses, strict=True)]
        order = np.unique(np.concatenate([np.zeros(0), *every]))
        is_given = ~np.isnan(x[:, feature])
        given = x[is_given, feature].astype(np.float64)
        places[is_given, feature] = np.searchsorted(order, given, side="left")
        placed = [
            replace(
                tree,
                threshold=np.where(
                    used, np.searchsorted(order, tree.threshold) + 0.5, tree.threshold
                ),
            )
            for tree, used in zip(placed, uses, strict=True)
        ]
    native: Any = lgb.Booster(model_str=lightgbm_text(placed, base_margin, x.shape[1]))
    return np.asarray(native.predict(places, pred_contrib=True, num_threads=1), dtype=np.float64)


def lightgbm_text(trees: Sequence[SplitTree], base_margin: float, feature_count: int) -> str:
    """The trees in LightGBM's text format; the first one's leaves hold the starting margin."""
    first, *others = trees
    started = [replace(first, value=first.value + base_margin), *others]
    blocks = [_block(number, tree) for number, tree in enumerate(started)]
    names = " ".join(f"f{place}" for place in range(feature_count))
    head = {
        "version": "v4",
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "label_index": "0",
        "max_feature_idx": str(feature_count - 1),
        "objective": "binary sigmoid:1",
        "feature_names": names,
        "feature_infos": " ".join(["none"] * feature_count),
        "tree_sizes": " ".join(str(len(block.encode())) for block in blocks),
    }
    lines = "\n".join(f"{name}={value}" for name, value in head.items())
    return f"tree\n{lines}\n\n{''.join(blocks)}end of trees\n{_TAIL}"


def _tree(tree: SplitTree) -> Tree:
    is_split = tree.left >= 0
    threshold = np.where(is_split, least_above(np.where(is_split, tree.threshold, 0.0)), 0.0)
    return Tree(
        left=tree.left,
        right=tree.right,
        feature=np.where(is_split, tree.feature, 0).astype(np.int32),
        threshold=threshold.astype(np.float32),
        default_left=is_split & tree.missing_left,
        value=np.where(is_split, 0.0, tree.value).astype(np.float32),
        cover=tree.count.astype(np.float64),
    )


def _block(number: int, tree: SplitTree) -> str:
    """A tree as LightGBM writes it: splits and leaves counted apart, a leaf as -1 - its number."""
    splits, leaves = np.flatnonzero(tree.left >= 0), np.flatnonzero(tree.left < 0)
    numbers = np.empty(len(tree.left), dtype=np.int64)
    numbers[splits], numbers[leaves] = np.arange(len(splits)), -1 - np.arange(len(leaves))
    decisions = _NUMERIC_MISSING_NAN | np.where(tree.missing_left[splits], _DEFAULT_LEFT, 0)
    columns: dict[str, NDArray[Any]] = {
        "split_feature": tree.feature[splits],
        "split_gain": np.zeros(len(splits)),
        "threshold": np.nan_to_num(tree.threshold[splits], posinf=np.finfo(np.float64).max),
        "decision_type": decisions,
        "left_child": numbers[tree.left[splits]],
        "right_child": numbers[tree.right[splits]],
        "leaf_value": tree.value[leaves],
        "leaf_weight": tree.count[leaves],
        "leaf_count": tree.count[leaves],
        "internal_value": np.zeros(len(splits)),
        "internal_weight": tree.count[splits],
        "internal_count": tree.count[splits],
    }
    told = "\n".join(
        f"{name}={' '.join(repr(value) for value in column.tolist())}"
        for name, column in columns.items()
    )
    head = f"Tree={number}\nnum_leaves={len(leaves)}\nnum_cat=0\n"
    return f"{head}{told}\nis_linear=0\nshrinkage=1\n\n\n"
