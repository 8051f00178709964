"""Forest → ONNX graph that yields raw margins."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tiebreak.core.model import INPUT, OUTPUT
from tiebreak.training.trees import Forest

_OPSETS = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
_IR_VERSION = 8


def to_onnx(forest: Forest) -> bytes:
    """The forest as an ONNX model: features (n, f) float32 → margin (n, 1) float32.

    Without label and without link function: they cost time, and the bits of `exp` differ between
    CPUs.
    """
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [OUTPUT],
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        base_values=[forest.base_margin],
        **_attributes(forest),
    )
    graph = helper.make_graph(
        [node],
        "tiebreak",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, forest.feature_count])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
    return model.SerializeToString(deterministic=True)


def _attributes(forest: Forest) -> dict[str, Any]:
    """Nodes and leaves of all trees, flat; `true` is the way to the left."""
    trees = forest.trees
    counts = [len(tree.left) for tree in trees]
    tree_ids = np.repeat(np.arange(len(trees)), counts)
    node_ids = np.concatenate([np.arange(count) for count in counts])
    is_leaf = np.concatenate([tree.left < 0 for tree in trees])

    def of_splits(values: list[NDArray[Any]]) -> list[Any]:
        joined = np.concatenate(values)
        return np.where(is_leaf, np.zeros_like(joined), joined).tolist()

    return {
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_modes": np.where(is_leaf, "LEAF", "BRANCH_LT").tolist(),
        "nodes_featureids": of_splits([tree.feature for tree in trees]),
        "nodes_values": of_splits([tree.threshold for tree in trees]),
        "nodes_truenodeids": of_splits([tree.left for tree in trees]),
        "nodes_falsenodeids": of_splits([tree.right for tree in trees]),
        "nodes_missing_value_tracks_true": of_splits(
            [tree.default_left.astype(np.int64) for tree in trees]
        ),
        "target_treeids": tree_ids[is_leaf].tolist(),
        "target_nodeids": node_ids[is_leaf].tolist(),
        "target_ids": [0] * int(is_leaf.sum()),
        "target_weights": np.concatenate([tree.value[tree.leaves] for tree in trees]).tolist(),
    }
