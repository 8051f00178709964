"""Many rows of the database as columns, without an object a value.

Postgres sends rows of fixed-width values by binary COPY, and each chunk is read as one numpy array;
rows with texts it sends as CSV, which Polars reads. Joins are left to whoever asks: two tables read
beside each other and joined by their hashes take a third of the time of a join in Postgres.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.store.database import Database

Columns = NDArray[Any]  # structured, one field a column

_HEADER_BYTES, _TRAILER_BYTES = 19, 2  # of a binary COPY without extensions
_EPOCH_2000 = np.datetime64("2000-01-01", "us").astype(np.int64)  # Postgres counts from there
FETCHED = 50_000
PIECE_BYTES = 8 << 20


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
        await conn.copy_from_query(query, *arguments, output=receive, format="binary")
    take((len(rest) - _TRAILER_BYTES) // wire.itemsize)
    return np.concatenate(parts)


def moments(column: NDArray[np.int64]) -> NDArray[np.int64]:
    """Timestamps of `fixed` as microseconds since 1970, UTC."""
    return column + _EPOCH_2000


async def texts(
    db: Database,
    query: str,
    *arguments: object,
    schema: Mapping[str, Any],
    keep: Callable[[pl.DataFrame], pl.DataFrame],
) -> pl.DataFrame:
    """The rows of a query with texts among them, or what `keep` makes of each piece of them.

    `schema` names the columns as the query does: integers, which may not be NULL, and texts.
    """
    parts = [await asyncio.to_thread(keep, pl.DataFrame(schema=schema))]
    rest = bytearray()

    async def take(end: int) -> None:
        piece = bytes(rest[:end])
        del rest[:end]
        parts.append(await asyncio.to_thread(lambda: keep(_csv(piece, schema))))

    async def receive(data: bytes) -> None:
        rest.extend(data)
        if len(rest) >= PIECE_BYTES and (end := _whole_rows(rest)):
            await take(end)

    # What is quoted is a text, the empty one too; what is not quoted and empty is NULL.
    quoted = [name for name, dtype in schema.items() if dtype == pl.String]
    async with db.connection() as conn, conn.transaction(readonly=True):
        await conn.copy_from_query(
            query, *arguments, output=receive, format="csv", force_quote=quoted
        )
    if rest:
        await take(len(rest))
    return pl.concat(parts)


def _csv(piece: bytes, schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.read_csv(piece, has_header=False, schema=dict(schema))


def _whole_rows(rest: bytearray) -> int:
    """Where the last whole row ends: a line that ends between quotes is not the end of a row."""
    end = rest.rfind(b"\n") + 1
    while rest.count(b'"', 0, end) % 2:
        end = rest.rfind(b"\n", 0, end - 1) + 1
    return end
