"""Builds the explanation tables of a forest: exact path-dependent SHAP, computed ahead.

For a leaf with value v whose path splits on the distinct features 1..d, let z_k be the share of
training cover that follows the path at its splits on k (a product, where k splits more than
once), and o_k be 1 when the row meets every condition on k along the path, else 0. In the game
v(S) = v * prod_{k in S} o_k * prod_{k not in S} z_k feature j's Shapley value is

    v * (o_j - z_j) * sum_s c_s * s! (d - 1 - s)! / d!
    where sum_s c_s t^s = prod_{k != j} (z_k + o_k t)

which depends on the row only through the d bits o_k. So what a group of neighbouring leaves adds
depends only on the decisions at the group's nodes: those on the path to it and those inside it.
A group's table holds the sums over its leaves for each pattern of decisions.

Sources: Lundberg et al., "Consistent individualized feature attribution for tree ensembles"
(2018), for the game; Yang, "Fast TreeSHAP" (2021), for subsets computed ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiebreak.core.explain import MAX_GROUP_NODES, Tables
from tiebreak.errors import InvalidInput
from tiebreak.training.leaf_tables import add_leaf
from tiebreak.training.trees import Forest, Tree

GROUP_NODES = 6  # decisions in a pattern, where a tree is not deeper; measured, see ADR 0003
MAX_TABLE_BYTES = 512 * 2**20


class ExplanationTooLarge(InvalidInput):
    """The model's explanation tables would not fit into memory."""

    code = "explanation_too_large"


@dataclass(frozen=True)
class Step:
    """One split on the way to a leaf: the node, whether the way goes left, share of its cover."""

    node: int
    is_left: bool
    share: float


@dataclass(frozen=True, eq=False)
class Group:
    """Leaves below a node, the nodes that decide which of them a row meets, and their table.

    `table` is (features, 2^nodes): what the leaves add to each feature for each pattern.
    """

    nodes: list[int]
    features: list[int]
    table: NDArray[np.float64]


def build_tables(forest: Forest, group_nodes: int = GROUP_NODES) -> Tables:
    """The explanation tables of the forest; ExplanationTooLarge when a tree is too deep."""
    inner = [np.flatnonzero(tree.left >= 0) for tree in forest.trees]
    node_starts = _starts(len(nodes) for nodes in inner)
    by_tree = [list(_groups(tree, group_nodes)) for tree in forest.trees]
    groups = [group for tree_groups in by_tree for group in tree_groups]
    if sum(group.table.size for group in groups) * 4 > MAX_TABLE_BYTES:
        raise ExplanationTooLarge(hint="Train with a smaller max_depth or fewer rounds.")
    pairs = list(zip(forest.trees, inner, strict=True))
    return Tables(
        feature_count=forest.feature_count,
        base_value=forest.base_margin + sum(expected_value(tree) for tree in forest.trees),
        node_features=_joined((tree.feature[nodes] for tree, nodes in pairs), np.uint32),
        node_thresholds=_joined((tree.threshold[nodes] for tree, nodes in pairs), np.float32),
        node_defaults=_joined((tree.default_left[nodes] for tree, nodes in pairs), np.uint8),
        node_starts=node_starts,
        group_starts=_starts(len(tree_groups) for tree_groups in by_tree),
        group_nodes=_numbered(by_tree, inner, node_starts),
        slot_starts=_starts(len(group.features) for group in groups),
        slot_features=_joined((group.features for group in groups), np.uint32),
        table_starts=_starts(group.table.size for group in groups)[:-1],
        table_sizes=np.array([group.table.shape[1] for group in groups], dtype=np.uint64),
        values=_joined((group.table.ravel() for group in groups), np.float32),
    )


def expected_value(tree: Tree) -> float:
    """The mean of the tree's leaves, weighted by cover down the tree."""
    means = tree.value.astype(np.float64)
    for node in range(len(means) - 1, -1, -1):  # children have higher numbers than parents
        left, right = int(tree.left[node]), int(tree.right[node])
        if left >= 0:
            weighed = means[left] * tree.cover[left] + means[right] * tree.cover[right]
            means[node] = weighed / tree.cover[node]
    return float(means[0])


def _groups(tree: Tree, most_nodes: int) -> Iterator[Group]:
    """The tree's leaves in groups with at most `most_nodes` decisions, or one leaf each."""
    inner_counts = _inner_counts(tree)

    def below(node: int, path: list[Step]) -> Iterator[Group]:
        is_small = len(path) + inner_counts[node] <= most_nodes
        if inner_counts[node] and not is_small:
            for child, step in _children(tree, node):
                yield from below(child, [*path, step])
        elif path or inner_counts[node]:
            yield _group(tree, node, path)

    return below(0, [])


def _group(tree: Tree, root: int, path: list[Step]) -> Group:
    leaves = list(_leaves(tree, root, path))
    nodes = list(dict.fromkeys(step.node for _, steps in leaves for step in steps))
    features = sorted({int(tree.feature[node]) for node in nodes})
    if len(nodes) > MAX_GROUP_NODES:
        raise ExplanationTooLarge(hint=f"Train with max_depth up to {MAX_GROUP_NODES}.")
    bit = {node: place for place, node in enumerate(nodes)}
    table = np.zeros((len(features), 1 << len(nodes)), dtype=np.float64)
    for leaf, steps in leaves:
        on_path = list(dict.fromkeys(int(tree.feature[step.node]) for step in steps))
        shares = np.ones(len(on_path), dtype=np.float64)
        for step in steps:
            shares[on_path.index(int(tree.feature[step.node]))] *= step.share
        add_leaf(
            table,
            float(tree.value[leaf]),
            shares,
            np.array([features.index(feature) for feature in on_path], dtype=np.int64),
            np.array([bit[step.node] for step in steps], dtype=np.int64),
            np.array([step.is_left for step in steps], dtype=np.int64),
            np.array([on_path.index(int(tree.feature[s.node])) for s in steps], dtype=np.int64),
        )
    return Group(nodes, features, table)


def _leaves(tree: Tree, node: int, path: list[Step]) -> Iterator[tuple[int, list[Step]]]:
    if tree.left[node] < 0:
        yield node, path
        return
    for child, step in _children(tree, node):
        yield from _leaves(tree, child, [*path, step])


def _children(tree: Tree, node: int) -> Iterator[tuple[int, Step]]:
    for child, is_left in ((int(tree.left[node]), True), (int(tree.right[node]), False)):
        yield child, Step(node, is_left, float(tree.cover[child] / tree.cover[node]))


def _inner_counts(tree: Tree) -> list[int]:
    """For each node the number of splits at and below it."""
    counts = [0] * len(tree.left)
    for node in range(len(counts) - 1, -1, -1):
        if tree.left[node] >= 0:
            counts[node] = 1 + counts[int(tree.left[node])] + counts[int(tree.right[node])]
    return counts


def _numbered(
    by_tree: Sequence[Sequence[Group]],
    inner: Sequence[NDArray[np.int64]],
    node_starts: NDArray[np.uint64],
) -> NDArray[np.uint32]:
    """Each group's nodes by their numbers in the forest, filled up to the same width."""
    rows: list[list[int]] = []
    for groups, nodes, start in zip(by_tree, inner, node_starts, strict=False):
        number = {int(node): int(start) + index for index, node in enumerate(nodes)}
        rows.extend([number[node] for node in group.nodes] for group in groups)
    width = max(map(len, rows), default=1)
    filler = int(node_starts[-1])
    filled = [row + [filler] * (width - len(row)) for row in rows]
    return np.array(filled, dtype=np.uint32).reshape(len(rows), width)


def _starts(counts: Iterable[int]) -> NDArray[np.uint64]:
    return np.array([0, *accumulate(counts)], dtype=np.uint64)


def _joined(parts: Iterable[ArrayLike], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(np.asarray(part) for part in parts)]).astype(dtype)
