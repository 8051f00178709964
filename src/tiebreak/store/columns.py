"""Many rows of the database as columns, without an object a value.

Postgres sends rows of fixed-width values by binary COPY, and each chunk is read as one numpy array.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.store.database import Database

Columns = NDArray[Any]  # structured, one field a column

_HEADER_BYTES, _TRAILER_BYTES = 19, 2  # of a binary COPY without extensions
_EPOCH_2000 = np.datetime64("2000-01-01", "us").astype(np.int64)  # Postgres counts from there
FETCHED = 50_000

# All rows are wanted, not the first ones soon, and their joins shall stay in memory; without a loop
# over an index for each row, which Postgres chooses where it has no statistics yet.
_FOR_MANY_ROWS = """
    SET LOCAL work_mem = '128MB';
    SET LOCAL cursor_tuple_fraction = 1;
    SET LOCAL enable_nestloop = off;
    SET LOCAL jit = off
"""


async def fixed(db: Database, query: str, *arguments: object, types: Mapping[str, str]) -> Columns:
    """The rows of a query as columns; none of its values may be NULL.

    `types` names the columns in order as numpy types of the width that Postgres sends: i2, i4, i8,
    f8. A timestamptz is i8, microseconds since 2000 (`moments` reads them).
    """
    wire = np.dtype(
        [("count", ">i2")]
        + [each for name, t in types.items() for each in ((f"{name}#", ">i4"), (name, f">{t}"))]
    )
    plain = np.dtype([(name, t) for name, t in types.items()])
    parts: list[Columns] = []
    rest = bytearray()
    is_begun = False

    def take(whole_rows: int) -> None:
        size = whole_rows * wire.itemsize
        read = np.frombuffer(bytes(rest[:size]), dtype=wire)
        part = np.empty(whole_rows, dtype=plain)
        for name in types:
            if not (read[f"{name}#"] == plain[name].itemsize).all():
                raise ValueError(f"{name} is NULL or of another width")
            part[name] = read[name]
        parts.append(part)
        del rest[:size]

    async def receive(data: bytes) -> None:
        nonlocal is_begun
        rest.extend(data)
        if not is_begun:
            if len(rest) < _HEADER_BYTES:
                return
            del rest[:_HEADER_BYTES]
            is_begun = True
        # Tens of thousands of rows at once, and never the trailer.
        if len(rest) >= FETCHED * wire.itemsize:
            take((len(rest) - _TRAILER_BYTES) // wire.itemsize)

    async with db.connection() as conn, conn.transaction(readonly=True):
        await conn.execute(_FOR_MANY_ROWS)
        await conn.copy_from_query(query, *arguments, output=receive, format="binary")
    take((len(rest) - _TRAILER_BYTES) // wire.itemsize)
    return np.concatenate(parts)


def moments(column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Timestamps of `fixed` as microseconds since 1970, UTC."""
    return column + _EPOCH_2000


async def frames(
    db: Database, query: str, *arguments: object, schema: Mapping[str, Any]
) -> AsyncGenerator[pl.DataFrame]:
    """The rows of a query with texts among them, in frames; memory holds one."""
    async with db.connection() as conn, conn.transaction(readonly=True):
        await conn.execute(_FOR_MANY_ROWS)
        cursor = await conn.cursor(query, *arguments)
        while rows := await cursor.fetch(FETCHED):
            yield pl.DataFrame(
                {
                    name: pl.Series(name, [row[name] for row in rows], dtype=dtype)
                    for name, dtype in schema.items()
                }
            )
