"""Exact path-dependent TreeSHAP by table look-up.

The tables are computed at export (`training.tables`). For a group of neighbouring leaves they
hold, for every pattern of decisions at the group's nodes, what those leaves add to each feature's
SHAP value. Explaining a row is: decide every node, read each group's pattern, add its values.

Two kernels do that: one for a few rows, whose time is spent on waiting for memory, and one that
takes rows in blocks so that the compiler can work on many rows at once. Each has the values in an
order of its own. Both add the same numbers to a feature in the same order, group by group, so a
row's bits do not depend on the batch it comes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tiebreak.core.explain_kernels import explain_blocks, explain_few, turn_tables
from tiebreak.errors import IntegrityFailure

FEW_ROWS = 24  # up to here the kernel for a few rows is the faster one (measured)
MAX_GROUP_NODES = 16  # a pattern is kept in 16 bits

_DTYPES: dict[str, str] = {
    "node_features": "<u4",
    "node_thresholds": "<f4",
    "node_defaults": "|u1",
    "node_starts": "<u8",
    "group_starts": "<u8",
    "group_nodes": "<u4",
    "slot_starts": "<u8",
    "slot_features": "<u4",
    "table_starts": "<u8",
    "table_sizes": "<u8",
    "values": "<f4",
}


class TablesMalformed(IntegrityFailure):
    """The explanation tables contradict themselves."""

    code = "explanation_tables_malformed"


@dataclass(frozen=True, eq=False)
class Tables:
    """Explanation tables of a forest, flat: N nodes in T trees, G groups of up to K nodes.

    node_features, node_thresholds, node_defaults: (N,) a row goes left where its feature is
        below the threshold, and where it is NaN and the default is 1.
    node_starts, group_starts: (T + 1,) where a tree's nodes and groups begin.
    group_nodes: (G, K) the nodes whose decisions make a group's pattern, lowest bit first,
        filled up with N.
    slot_starts: (G + 1,) where a group's entries in slot_features begin.
    table_starts, table_sizes: (G,) where a group's values begin, and how many patterns it has;
        for each of its slots in turn there is one value a pattern.
    """

    feature_count: int
    base_value: float
    node_features: NDArray[np.uint32]
    node_thresholds: NDArray[np.float32]
    node_defaults: NDArray[np.uint8]
    node_starts: NDArray[np.uint64]
    group_starts: NDArray[np.uint64]
    group_nodes: NDArray[np.uint32]
    slot_starts: NDArray[np.uint64]
    slot_features: NDArray[np.uint32]
    table_starts: NDArray[np.uint64]
    table_sizes: NDArray[np.uint64]
    values: NDArray[np.float32]

    def explain(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values (n, f) of the rows of `x` (n, f), in the unit of the margin.

        A row's values + `base_value` add up to its margin. NaN is a missing value. A row's bits
        do not depend on the other rows.
        """
        out = np.zeros((len(x), self.feature_count), dtype=np.float64)
        if len(x) <= FEW_ROWS:
            explain_few(x, *self._arrays_for_few, out)  # pyright: ignore[reportCallIssue]
        else:
            explain_blocks(x, *self._arrays, out)  # pyright: ignore[reportCallIssue]
        return out

    def dump(self) -> bytes:
        """The tables as bytes: one line of JSON that lists the arrays, then their bytes."""
        head = {
            "feature_count": self.feature_count,
            "base_value": self.base_value,
            "shapes": [list(array.shape) for array in self._arrays],
        }
        return orjson.dumps(head) + b"\n" + b"".join(array.tobytes() for array in self._arrays)

    @classmethod
    def load(cls, data: bytes) -> Tables:
        """The tables in `data`, checked so that no look-up can leave them; TablesMalformed."""
        try:
            tables = cls._parse(data)
        except (ValueError, KeyError, TypeError) as error:
            raise TablesMalformed(hint=str(error)) from error
        if not tables._is_consistent():
            raise TablesMalformed
        return tables

    @classmethod
    def _parse(cls, data: bytes) -> Tables:
        offset = data.index(b"\n") + 1
        head: dict[str, Any] = orjson.loads(data[: offset - 1])
        arrays: dict[str, Any] = {}
        for (name, dtype), shape in zip(_DTYPES.items(), head["shapes"], strict=True):
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(data, dtype=dtype, count=count, offset=offset)
            offset += array.nbytes
            # a copy, because the kernels are compiled for aligned arrays
            arrays[name] = array.reshape(shape).copy()
        if offset != len(data):
            raise ValueError("bytes are left over")
        return cls(int(head["feature_count"]), float(head["base_value"]), **arrays)

    def _is_consistent(self) -> bool:
        nodes, groups = len(self.node_features), len(self.group_nodes)
        if self.group_nodes.ndim != 2 or not groups or not 1 <= self.group_nodes.shape[1] <= 16:
            return False
        slots = np.diff(self.slot_starts)
        real = (self.group_nodes < nodes).sum(axis=1).astype(np.uint64)
        return bool(
            len(self.node_thresholds) == len(self.node_defaults) == nodes
            and len(self.node_starts) == len(self.group_starts)
            and len(self.table_starts) == len(self.table_sizes) == groups
            and len(self.slot_starts) == groups + 1
            and _rises(self.node_starts, nodes)
            and _rises(self.group_starts, groups)
            and _rises(self.slot_starts, len(self.slot_features))
            and (self.node_features < self.feature_count).all()
            and (self.slot_features < self.feature_count).all()
            and self._are_nodes_of_their_tree()
            and (self.table_sizes == np.left_shift(np.uint64(1), real)).all()
            and (self.table_starts[1:] == np.cumsum(slots * self.table_sizes)[:-1]).all()
            and int((slots * self.table_sizes).sum()) == len(self.values)
        )

    def _are_nodes_of_their_tree(self) -> bool:
        groups_of_tree = np.diff(self.group_starts).astype(np.int64)
        low = np.repeat(self.node_starts[:-1], groups_of_tree)[:, None]
        high = np.repeat(self.node_starts[1:], groups_of_tree)[:, None]
        filler = self.group_nodes == len(self.node_features)
        inside = (self.group_nodes >= low) & (self.group_nodes < high)
        is_tail = (np.diff(filler.astype(np.int8), axis=1) >= 0).all()
        return bool((filler | inside).all() and is_tail and not filler[:, 0].any())

    @cached_property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return tuple(getattr(self, name) for name in _DTYPES)

    @cached_property
    def _arrays_for_few(self) -> tuple[NDArray[Any], ...]:
        """What `explain_few` takes: nodes that ask the same are one test, values by pattern."""
        asked = self.node_thresholds.view(np.uint32).astype(np.uint64)
        asked |= (self.node_defaults != 0).astype(np.uint64) << np.uint64(32)
        asked |= self.node_features.astype(np.uint64) << np.uint64(33)
        _, node_of_test, test_of_node = np.unique(asked, return_index=True, return_inverse=True)
        tests = np.append(test_of_node, len(node_of_test)).astype(np.uint32)
        values = np.empty_like(self.values)
        turn_tables(self.slot_starts, self.table_starts, self.table_sizes, self.values, values)
        return (
            self.node_features[node_of_test],
            self.node_thresholds[node_of_test],
            self.node_defaults[node_of_test],
            tests[self.group_nodes],
            self.slot_starts,
            self.slot_features,
            self.table_starts,
            values,
        )


def _rises(starts: NDArray[np.uint64], end: int) -> bool:
    """Whether these are starts of consecutive ranges that cover 0 to `end`."""
    steps = starts[1:] >= starts[:-1]
    return bool(len(starts) and starts[0] == 0 and starts[-1] == end and steps.all())
