"""A described legacy model → the parts of a bundle, with the same score for every ticket.

Scalers and imputers are folded into the trees: the threshold of a node becomes the least float32
of the input itself that does not go left, found by search over all float32 numbers, and a missing
value goes where the filled value goes. Encoders become codes of the bundle's features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.calibration import Calibrator
from tiebreak.core.features import FeaturePlan
from tiebreak.core.matrix import FeatureSpec
from tiebreak.core.workflow import Workflow
from tiebreak.training.legacy.mapping import Input
from tiebreak.training.legacy.reading import Code, Told, ToldColumn, ToldTree
from tiebreak.training.legacy.refusals import LegacyRefused
from tiebreak.training.tables import MAX_TABLE_BYTES
from tiebreak.training.trees import Forest, Tree

Floats = NDArray[np.float64]
_END = float(np.finfo(np.float32).max)
_REACH, _STEP = 20.0, 1 / 256  # of the sigmoid's table: within 2e-7 of the function
_MISSING_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Converted:
    """The forest over the bundle's features, the features, and the link as a table."""

    forest: Forest
    specs: tuple[FeatureSpec, ...]
    calibrator: Calibrator


def convert(told: Told, inputs: Sequence[Input], workflow: Workflow) -> Converted:
    """The bundle's side of a model whose inputs are given; raises LegacyRefused."""
    _check_size(told)
    read = {feature for tree in told.trees for feature in _splits(tree)}
    if not read:
        raise _refused("its trees have no split")
    specs: dict[str, FeatureSpec] = {}
    place: dict[int, int] = {}
    for index in sorted(read):
        spec = _spec(told.columns[index], inputs, workflow)
        if spec.name in specs and specs[spec.name] != spec:
            raise _refused(f"it encodes {spec.reads} in two ways")
        specs.setdefault(spec.name, spec)
        place[index] = list(specs).index(spec.name)
    trees = tuple(_tree(tree, told, inputs, place) for tree in told.trees)
    forest = Forest(trees, told.base, len(specs))
    return Converted(forest, tuple(specs.values()), link(told.link))


def link(kind: str) -> Calibrator:
    """The function from margin to score as a table."""
    if kind == "identity":
        return Calibrator(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    margins = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    return Calibrator(margins, 1.0 / (1.0 + np.exp(-margins)))


def _splits(tree: ToldTree) -> set[int]:
    return {f for f, left in zip(tree.feature, tree.left, strict=True) if left >= 0}


def _spec(column: ToldColumn, inputs: Sequence[Input], workflow: Workflow) -> FeatureSpec:
    plan = FeaturePlan(workflow)
    given = inputs[column.input]
    kind = plan.kinds()[given.feature]
    definition = plan.definitions()[given.feature]
    if column.encoder is None and given.codes is None:
        if kind != "number":
            raise _refused(f"{given.feature} is a {kind}, and it reads a number; map it with codes")
        return FeatureSpec(given.feature, "number", definition)
    if kind != "category":
        raise _refused(f"{given.feature} is a {kind}, and it reads a category")
    if column.encoder is None:
        assert given.codes is not None
        values, unseen, missing = given.codes, given.unseen, given.missing
        name = given.feature
    else:
        values = dict(column.encoder.values)
        unseen = _or_given(column.encoder.unseen, given.unseen)
        missing = _or_given(column.encoder.missing, given.missing)
        ones = [value for value, code in column.encoder.values if code == 1.0]
        zeros = [value for value, code in column.encoder.values if code == 0.0]
        is_flag = len(ones) == 1 and len(zeros) == len(values) - 1
        name = f"{given.feature}={ones[0]}" if is_flag else given.feature
        if not ones and len(zeros) == len(values):
            name = f"{given.feature}=missing"
    if unseen is None or missing is None:
        what = "unseen" if unseen is None else "missing"
        raise _refused(
            f"it has no answer for {what} values of {given.feature}; give one in the mapping"
        )
    encoding = (_code(missing), _code(unseen), *(_code(code) for code in values.values()))
    return FeatureSpec(
        name,
        "category",
        definition,
        categories=tuple(values),
        column=given.feature if name != given.feature else None,
        encoding=encoding,
    )


def _or_given(code: Code, given: Code) -> Code:
    return given if code is None else code


def _code(code: Code) -> float:
    assert code is not None
    return float(np.float32(float(code)))


def _tree(tree: ToldTree, told: Told, inputs: Sequence[Input], place: Mapping[int, int]) -> Tree:
    left, features = np.array(tree.left), np.array(tree.feature)
    splits, missing = np.array(tree.threshold), np.array(tree.missing)
    thresholds = np.zeros(len(left), dtype=np.float32)
    defaults = np.zeros(len(left), dtype=np.bool_)
    numbered = np.zeros(len(left), dtype=np.int32)
    read: list[int] = np.unique(features[left >= 0]).tolist()
    for index in read:
        nodes = np.flatnonzero((left >= 0) & (features == index))
        column = told.columns[index]
        decide = _Decision(told.rule, column.steps, splits[nodes])
        thresholds[nodes] = least_not_left(decide)
        defaults[nodes] = _missing_left(decide, missing[nodes], column, inputs[column.input])
        numbered[nodes] = place[index]
    return Tree(
        left=left.astype(np.int32),
        right=np.array(tree.right, dtype=np.int32),
        feature=numbered,
        threshold=thresholds,
        default_left=defaults,
        value=np.array(tree.value, dtype=np.float32),
        cover=np.maximum(np.array(tree.cover, dtype=np.float64), 1e-9),
    )


@dataclass(frozen=True, eq=False)
class _Decision:
    """Which of some nodes send a number to the left, as the original does."""

    rule: str
    steps: Sequence[tuple[str, float]]
    thresholds: Floats

    def is_left(self, value: Floats) -> NDArray[np.bool_]:
        """For one number a node, none of them missing."""
        taken = value.astype(np.float64)
        with np.errstate(over="ignore"):
            for operation, number in self.steps:
                taken = _step(operation, taken, number)
            if self.rule == "lt32":
                return taken.astype(np.float32) < self.thresholds.astype(np.float32)
            if self.rule == "le32":
                return taken.astype(np.float32).astype(np.float64) <= self.thresholds
        return taken <= self.thresholds


def _step(operation: str, values: Floats, number: float) -> Floats:
    match operation:
        case "sub":
            return values - number
        case "div":
            return values / number
        case "mul":
            return values * number
        case "add":
            return values + number
        case "clip_low":
            return np.maximum(values, number)
        case "clip_high":
            return np.minimum(values, number)
        case "zero":
            return np.where(np.abs(values) <= number, 0.0, values)
        case _:  # fill: no number given here is missing
            return values


def least_not_left(decide: _Decision) -> NDArray[np.float32]:
    """For each node the least float32 that does not go left, infinite where all go left.

    Every step rises with its input, so what goes left lies below what does not.
    """
    count = len(decide.thresholds)
    low = np.full(count, _rank(np.float32(-_END)), dtype=np.int64)
    high = np.full(count, _rank(np.float32(_END)) + 1, dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        is_left = decide.is_left(_of_rank(middle).astype(np.float64))
        is_open = low < high
        low = np.where(is_open & is_left, middle + 1, low)
        high = np.where(is_open & ~is_left, middle, high)
    return np.where(low > _rank(np.float32(_END)), np.float32(np.inf), _of_rank(low))


def _missing_left(
    decide: _Decision, missing: NDArray[np.int64], column: ToldColumn, given: Input
) -> NDArray[np.bool_]:
    fill = next((number for name, number in column.steps if name == "fill"), None)
    if fill is None and isinstance(given.missing, float) and column.encoder is None:
        fill = given.missing
    if fill is not None:
        return decide.is_left(np.full(len(missing), fill))
    if column.encoder is None and (missing == _MISSING_UNKNOWN).any():
        raise _refused(
            f"it takes no missing values of {given.feature}; say in the mapping what they count as"
        )
    return missing == 1


def _rank(value: np.float32) -> int:
    bits = int(value.view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _of_rank(rank: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = np.where(rank >= 0, rank, (-rank) | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)


def _check_size(told: Told) -> None:
    """Explanation tables double with each level; their size is known before they are built."""
    size, deepest = 0, 0
    for tree in told.trees:
        depth = [0] * len(tree.left)
        for node, (left, right) in enumerate(zip(tree.left, tree.right, strict=True)):
            if left >= 0:
                depth[left] = depth[right] = depth[node] + 1
            else:
                deepest = max(deepest, depth[node])
                size += depth[node] * 4 << depth[node] if depth[node] > 7 else 0
    if size > MAX_TABLE_BYTES:
        raise _refused(
            f"its trees are up to {deepest} levels deep, too deep for exact explanations; "
            "train it anew with max_depth 8"
        )


def _refused(reason: str, **fields: Any) -> LegacyRefused:
    return LegacyRefused(
        f"The model cannot be imported: {reason}.",
        hint="docs/howto/import-a-legacy-model.md lists the shapes that convert.",
        **fields,
    )
