"""Appends to the history log: rows in bulk, written as Postgres reads them in a binary COPY.

Most rows that Tiebreak writes are these. Encoded a whole column at a time they cost a fraction of
what rows of Python values cost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tiebreak.store.unit import Connection

KEY_BYTES = 16

Ints = NDArray[np.int64]

_COLUMNS = ("workflow", "generation", "entity_key", "known_at", "totals")
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"
_INT8 = 20  # the type's number in Postgres
_EPOCH_OF_POSTGRES_US = 946_684_800_000_000  # 2000-01-01


async def append(conn: Connection, blocks: Sequence[bytes]) -> None:
    """COPY encoded rows into the log; rows of different entities may differ in their slots."""
    if blocks:
        await conn.copy_to_table(
            "history_log",
            source=_once(b"".join([_HEADER, *blocks, _TRAILER])),
            columns=_COLUMNS,
            format="binary",
        )


def encode(
    workflow: str, generation: int, keys: Sequence[bytes], known_at_us: int | Ints, totals: Ints
) -> bytes:
    """Rows of the log: a key of 16 bytes, a time, and totals (n, slots) in stored order."""
    name = workflow.encode()
    rows = np.zeros(len(keys), dtype=_layout(len(name), totals.shape[1]))
    rows["fields"] = len(_COLUMNS)
    rows["workflow_size"], rows["workflow"] = len(name), np.void(name)
    rows["generation_size"], rows["generation"] = 4, generation
    rows["key_size"] = KEY_BYTES
    rows["key"] = np.frombuffer(b"".join(keys), dtype=f"V{KEY_BYTES}")
    rows["time_size"], rows["time"] = 8, known_at_us - _EPOCH_OF_POSTGRES_US
    rows["totals_size"] = 20 + 12 * totals.shape[1]
    rows["dimensions"], rows["type"] = 1, _INT8
    rows["length"], rows["first_index"] = totals.shape[1], 1
    rows["elements"]["size"] = 8
    rows["elements"]["value"] = totals
    return rows.tobytes()


@lru_cache(maxsize=256)
def _layout(name_bytes: int, width: int) -> np.dtype[np.void]:
    element = np.dtype([("size", ">i4"), ("value", ">i8")])
    return np.dtype(
        [
            ("fields", ">i2"),
            ("workflow_size", ">i4"),
            ("workflow", f"V{name_bytes}"),
            ("generation_size", ">i4"),
            ("generation", ">i4"),
            ("key_size", ">i4"),
            ("key", f"V{KEY_BYTES}"),
            ("time_size", ">i4"),
            ("time", ">i8"),
            ("totals_size", ">i4"),
            ("dimensions", ">i4"),
            ("has_nulls", ">i4"),
            ("type", ">i4"),
            ("length", ">i4"),
            ("first_index", ">i4"),
            ("elements", element, (width,)),
        ]
    )


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data
