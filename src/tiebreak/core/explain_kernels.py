"""The compiled loops of `core.explain`; the arguments are the arrays of its `Tables`.

Indices are unsigned, so that no negative index has to be considered. No fast math, no threads:
the order of additions is the order written here.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir
import numba
import numba.extending
import numpy as np
from numpy.typing import NDArray

ir: Any = llvmlite.ir  # these three come without types
types: Any = numba.types
intrinsic: Any = numba.extending.intrinsic

_BLOCK = 256  # rows decided together: a tree's decisions for them stay in the first-level cache
_LANES = 4  # rows whose 16-bit patterns make one word
_WORDS = 16  # words at a time, so that their sums stay in the first-level cache
_AHEAD = 8  # groups between asking memory for values and adding them (measured)


@intrinsic
def _prefetch(_: Any, values: Any, at: Any) -> Any:
    """Asks memory for `values[at]`, and does not wait for it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", (place.type,), kind)
        builder.call(call, [place, number(0), number(3), number(1)])  # to read, often, data
        return context.get_dummy_value()

    return types.void(values, at), build


@intrinsic
def _add_four(_: Any, sums: Any, to: Any, values: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Adds `values` (float32) at four places to four neighbours in `sums` (float64)."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        totals = context.make_array(signature.args[0])(context, builder, arguments[0])
        table = context.make_array(signature.args[2])(context, builder, arguments[2])
        four = ir.Constant(ir.VectorType(ir.FloatType(), _LANES), ir.Undefined)
        for lane, place in enumerate(arguments[3:]):
            value = builder.load(builder.gep(table.data, [place]))
            four = builder.insert_element(four, value, ir.IntType(32)(lane))
        wide = ir.VectorType(ir.DoubleType(), _LANES)
        where = builder.bitcast(builder.gep(totals.data, [arguments[1]]), wide.as_pointer())
        before = builder.load(where, align=8)
        builder.store(builder.fadd(before, builder.fpext(four, wide)), where, align=8)
        return context.get_dummy_value()

    return types.void(sums, to, values, a, b, c, d), build


@numba.njit(cache=True, nogil=True)
def turn_tables(
    slot_starts: NDArray[np.uint64],
    table_starts: NDArray[np.uint64],
    table_sizes: NDArray[np.uint64],
    values: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Writes to `out` each group's values by pattern and slot, instead of by slot and pattern."""
    for group in range(len(table_starts)):
        start, size = table_starts[group], table_sizes[group]
        slots = slot_starts[group + 1] - slot_starts[group]
        for slot in range(slots):
            for pattern in range(size):
                out[start + pattern * slots + slot] = values[start + slot * size + pattern]


@numba.njit(cache=True, nogil=True)
def explain_few(
    x: NDArray[np.float32],
    test_features: NDArray[np.uint32],
    test_thresholds: NDArray[np.float32],
    test_defaults: NDArray[np.uint8],
    group_tests: NDArray[np.uint32],
    slot_starts: NDArray[np.uint64],
    slot_features: NDArray[np.uint32],
    table_starts: NDArray[np.uint64],
    values: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    """Adds each row's SHAP values to `out`, four rows a word; for a few rows.

    `values` stand by pattern and slot, so that what a group adds to a row lies together, and
    memory is asked for it some groups before: most of the time would be waiting otherwise.
    """
    row_count, feature_count = x.shape
    test_count = len(test_features)
    group_count, width = group_tests.shape
    most = max(1, min(_WORDS, (row_count + _LANES - 1) // _LANES))
    is_left = np.zeros((test_count + 1, most * _LANES), np.uint16)  # the last fills places up
    words = is_left.view(np.uint64)
    columns = np.empty((feature_count, most * _LANES), np.float32)
    patterns = np.empty((group_count, most), np.uint64)
    sums = np.empty(most * feature_count * _LANES, np.float64)
    low, features = np.uint64(0xFFFF), np.uint64(feature_count)
    for start in range(0, row_count, most * _LANES):
        rows = min(most * _LANES, row_count - start)
        count = (rows + _LANES - 1) // _LANES
        for feature in range(feature_count):
            for row in range(count * _LANES):  # the last row fills up the last word
                columns[feature, row] = x[start + min(row, rows - 1), feature]
        for test in range(test_count):
            threshold = test_thresholds[test]
            column, decision = columns[test_features[test]], is_left[test]
            if test_defaults[test]:
                for row in range(count * _LANES):
                    decision[row] = not (column[row] >= threshold)
            else:
                for row in range(count * _LANES):
                    decision[row] = column[row] < threshold
        sums[:] = 0.0
        for step in range(group_count + _AHEAD):
            if step < group_count:
                table = table_starts[step]
                slots = slot_starts[step + 1] - slot_starts[step]
                for word in range(count):
                    pattern = np.uint64(0)
                    for place in range(width):
                        pattern |= words[group_tests[step, place], word] << np.uint64(place)
                    patterns[step, word] = pattern
                    for lane in range(_LANES):
                        _prefetch(values, table + ((pattern >> np.uint64(16 * lane)) & low) * slots)
            if step >= _AHEAD:
                group = step - _AHEAD
                table, first = table_starts[group], slot_starts[group]
                slots = slot_starts[group + 1] - first
                for word in range(count):
                    pattern = patterns[group, word]
                    a = table + (pattern & low) * slots
                    b = table + ((pattern >> np.uint64(16)) & low) * slots
                    c = table + ((pattern >> np.uint64(32)) & low) * slots
                    d = table + (pattern >> np.uint64(48)) * slots
                    own = np.uint64(word) * features
                    for slot in range(slots):
                        to = (own + slot_features[first + slot]) * np.uint64(_LANES)
                        _add_four(sums, to, values, a + slot, b + slot, c + slot, d + slot)
        for row in range(rows):
            for feature in range(feature_count):
                place = (row // _LANES * feature_count + feature) * _LANES + row % _LANES
                out[start + row, feature] += sums[place]


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
    """Adds each row's SHAP values to `out`, rows innermost; for many rows.

    `values` stand by slot and pattern, as in the file.
    """
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
