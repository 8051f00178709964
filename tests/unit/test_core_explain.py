"""Both kernels of the explanation add the same numbers in the same order, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tiebreak.core.explain import FEW_ROWS, MAX_GROUP_NODES, Tables

FEATURES = 5
ROWS = 200
SIZES = (0, 1, 3, 4, 5, FEW_ROWS - 1, FEW_ROWS, FEW_ROWS + 1, ROWS)


def _tables(width: int) -> Tables:
    """Tables of three trees with random nodes, some of them alike, and groups up to `width`."""
    rng = np.random.default_rng(width)
    trees, nodes, groups = 3, 20, 6
    sizes = rng.integers(1, width + 1, trees * groups)
    sizes[0] = width
    own = np.repeat(np.arange(trees), groups) * nodes
    group_nodes = np.full((trees * groups, width), trees * nodes, dtype=np.uint32)
    for group, size in enumerate(sizes):
        group_nodes[group, :size] = own[group] + rng.permutation(nodes)[:size]
    slots = [np.sort(rng.permutation(FEATURES)[: rng.integers(1, FEATURES + 1)]) for _ in sizes]
    patterns = np.left_shift(np.uint64(1), sizes.astype(np.uint64))
    counts = np.array([len(each) for each in slots], dtype=np.uint64)
    ends = np.cumsum(counts * patterns)
    return Tables(
        feature_count=FEATURES,
        base_value=0.0,
        node_features=rng.integers(0, FEATURES, trees * nodes, dtype=np.uint32),
        node_thresholds=rng.choice(np.array([-1, 0, 0.5, 2], dtype=np.float32), trees * nodes),
        node_defaults=rng.integers(0, 2, trees * nodes, dtype=np.uint8),
        node_starts=np.arange(0, trees * nodes + 1, nodes, dtype=np.uint64),
        group_starts=np.arange(0, trees * groups + 1, groups, dtype=np.uint64),
        group_nodes=group_nodes,
        slot_starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64),
        slot_features=np.concatenate(slots).astype(np.uint32),
        table_starts=np.concatenate([[0], ends[:-1]]).astype(np.uint64),
        table_sizes=patterns,
        values=rng.normal(size=int(ends[-1])).astype(np.float32),
    )


def _looked_up(tables: Tables, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What the tables say, look-up by look-up."""
    out = np.zeros(x.shape, dtype=np.float64)
    given = x[:, tables.node_features]
    is_left = (given < tables.node_thresholds) | (np.isnan(given) & (tables.node_defaults == 1))
    is_left = np.column_stack([is_left, np.zeros(len(x), dtype=np.bool_)])
    for group, nodes in enumerate(tables.group_nodes):
        pattern = (is_left[:, nodes] << np.arange(len(nodes))).sum(axis=1)
        start, size = int(tables.table_starts[group]), int(tables.table_sizes[group])
        first, end = tables.slot_starts[group : group + 2].tolist()
        for number, feature in enumerate(tables.slot_features[first:end]):
            out[:, feature] += tables.values[start + number * size + pattern]
    return out


@pytest.mark.parametrize("width", [1, 6, 9, MAX_GROUP_NODES])
def test_every_size_of_batch_gives_the_bits_of_single_look_ups(width: int) -> None:
    tables = Tables.load(_tables(width).dump())
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([-2, -1, 0, 0.5, 1, 3, np.nan], dtype=np.float32), (ROWS, FEATURES))
    wanted = _looked_up(tables, x)
    for size in SIZES:
        assert tables.explain(x[:size]).tobytes() == wanted[:size].tobytes()
