"""Booster → ONNX graph that yields raw margins."""

from __future__ import annotations

from typing import Any

import onnx
import xgboost as xgb
from onnx import TensorProto, helper
from onnxmltools import convert_xgboost  # pyright: ignore[reportUnknownVariableType]
from onnxmltools.convert.common.data_types import FloatTensorType

from tiebreak.core.model import INPUT, OUTPUT

_OPSETS = [helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)]
_IR_VERSION = 8
_RENAMED = {
    "class_ids": "target_ids",
    "class_nodeids": "target_nodeids",
    "class_treeids": "target_treeids",
    "class_weights": "target_weights",
}
_DROPPED = {"classlabels_int64s", "post_transform"}


def to_onnx(booster: xgb.Booster) -> bytes:
    """The booster as an ONNX model: features (n, f) float32 → margin (n, 1) float32.

    The converter writes a classifier, whose label output has a wrong shape that makes ONNX
    Runtime warn at every call, and whose probabilities we do not want: they cost time, and the
    bits of `exp` differ between CPUs. So its trees are put into a regressor node, without label
    and without link function.
    """
    feature_count = booster.num_features()
    converted = convert_xgboost(
        booster, name="tiebreak", initial_types=[(INPUT, FloatTensorType([None, feature_count]))]
    )
    (classifier,) = converted.graph.node
    node = helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [OUTPUT],
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        **_attributes(classifier),
    )
    graph = helper.make_graph(
        [node],
        "tiebreak",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, feature_count])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=_OPSETS, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
    return model.SerializeToString(deterministic=True)


def _attributes(classifier: Any) -> dict[str, Any]:
    values = {item.name: helper.get_attribute_value(item) for item in classifier.attribute}
    return {str(_RENAMED.get(k, k)): v for k, v in values.items() if k not in _DROPPED}
