"""The compiled loops of `core.explain`; the arguments are the arrays of its `Tables`.

Indices are unsigned, so that no negative index has to be considered. No fast math, no threads:
the order of additions is the order written here.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_BLOCK = 256  # rows decided together: a tree's decisions for them stay in the first-level cache


@numba.njit(cache=True, nogil=True)
def explain_rows(
    x: NDArray[np.float32],
    node_features: NDArray[np.uint32],
    node_thresholds: NDArray[np.float32],
    node_defaults: NDArray[np.uint8],
    node_starts: NDArray[np.uint64],  # noqa: ARG001 - both kernels take the same arrays
    group_starts: NDArray[np.uint64],  # noqa: ARG001
    group_nodes: NDArray[np.uint32],
    slot_starts: NDArray[np.uint64],
    slot_features: NDArray[np.uint32],
    table_starts: NDArray[np.uint64],
    table_sizes: NDArray[np.uint64],
    values: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    """Adds each row's SHAP values to `out`, row by row; for a few rows."""
    node_count = len(node_features)
    group_count, width = group_nodes.shape
    is_left = np.zeros(node_count + 1, np.uint8)  # the last one stays 0, for filled-up places
    for row in range(x.shape[0]):
        for node in range(node_count):
            value = x[row, node_features[node]]
            is_below = np.uint8(value < node_thresholds[node])
            is_missing = np.uint8(value != value)
            is_left[node] = is_below | (is_missing & node_defaults[node])
        for group in range(group_count):
            pattern = np.uint64(0)
            for place in range(width):
                bit = np.uint64(is_left[group_nodes[group, place]])
                pattern |= bit << np.uint64(place)
            position = table_starts[group] + pattern
            for slot in range(slot_starts[group], slot_starts[group + 1]):
                out[row, slot_features[slot]] += values[position]
                position += table_sizes[group]


@numba.njit(cache=True, nogil=True)
def explain_blocks(
    x: NDArray[np.float32],
    node_features: NDArray[np.uint32],
    node_thresholds: NDArray[np.float32],
    node_defaults: NDArray[np.uint8],
    node_starts: NDArray[np.uint64],
    group_starts: NDArray[np.uint64],
    group_nodes: NDArray[np.uint32],
    slot_starts: NDArray[np.uint64],
    slot_features: NDArray[np.uint32],
    table_starts: NDArray[np.uint64],
    table_sizes: NDArray[np.uint64],
    values: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    """Adds each row's SHAP values to `out`, rows innermost; for many rows."""
    row_count, feature_count = x.shape
    width = group_nodes.shape[1]
    node_count = len(node_features)
    most_nodes = np.uint64(1)
    for tree in range(len(node_starts) - 1):
        most_nodes = max(most_nodes, node_starts[tree + 1] - node_starts[tree])
    is_left = np.empty((most_nodes, _BLOCK), np.uint8)
    pattern = np.empty(_BLOCK, np.uint16)
    columns = np.empty((feature_count, _BLOCK), np.float32)
    sums = np.empty((feature_count, _BLOCK), np.float64)
    for start in range(0, row_count, _BLOCK):
        rows = min(_BLOCK, row_count - start)
        for row in range(rows):
            for feature in range(feature_count):
                columns[feature, row] = x[start + row, feature]
        sums[:] = 0.0
        for tree in range(len(node_starts) - 1):
            first = node_starts[tree]
            for node in range(first, node_starts[tree + 1]):
                threshold = node_thresholds[node]
                column = columns[node_features[node]]
                decision = is_left[node - first]
                if node_defaults[node]:
                    for row in range(rows):
                        decision[row] = not (column[row] >= threshold)
                else:
                    for row in range(rows):
                        decision[row] = column[row] < threshold
            for group in range(group_starts[tree], group_starts[tree + 1]):
                decision = is_left[group_nodes[group, 0] - first]
                for row in range(rows):
                    pattern[row] = decision[row]
                for place in range(1, width):
                    if group_nodes[group, place] == node_count:
                        break
                    decision = is_left[group_nodes[group, place] - first]
                    shift = np.uint16(place)
                    for row in range(rows):
                        pattern[row] |= np.uint16(decision[row]) << shift
                position = table_starts[group]
                size = table_sizes[group]
                for slot in range(slot_starts[group], slot_starts[group + 1]):
                    table = values[position : position + size]
                    total = sums[slot_features[slot]]
                    for row in range(rows):
                        total[row] += table[pattern[row]]
                    position += size
        for row in range(rows):
            for feature in range(feature_count):
                out[start + row, feature] += sums[feature, row]
