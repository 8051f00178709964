"""Rows of columnar files, Parquet and Arrow, some thousands at a time. Runs in a child only."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import polars as pl

from tiebreak.errors import Problem
from tiebreak.ingest.arrow import NotArrow, TooLarge, batches
from tiebreak.ingest.rows import FileUnreadable

ROWS_AT_ONCE = 4_000
ROWS_IN_PYTHON = 256
MAX_COLUMNS = 2_000
MAX_DEPTH = 8
ANEW = "Copy it again, or write it anew; it may be cut off or damaged."
SMALLER = "Write it anew with row groups or record batches of some 10,000 rows."

_NO_VALUE = Problem("", "unreadable", "holds a value that cannot be read", "see its columns' types")

FAILURES = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    ValueError,
    OverflowError,
)

Cells = tuple[Any, ...] | Problem


@dataclass(frozen=True, slots=True)
class Frame:
    """Some rows, and the share of the file that is read with them, if it is known."""

    rows: pl.DataFrame
    share: float | None


@dataclass(slots=True)
class _Place:
    """How far a file is read."""

    name: str
    row: int = 0


def parquet_frames(path: str, name: str) -> Iterator[Frame]:
    """The rows of a Parquet file."""
    with _readable(name, "Parquet") as place:
        table = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        yield from _slices(table, place)


def arrow_file_frames(path: str, name: str) -> Iterator[Frame]:
    """The rows of an Arrow IPC file."""
    with _readable(name, "an Arrow IPC file") as place:
        yield from _slices(pl.scan_ipc(path, glob=False, hive_partitioning=False), place)


def arrow_stream_frames(source: BinaryIO, name: str) -> Iterator[Frame]:
    """The rows of an Arrow IPC stream, while it comes."""
    with _readable(name, "an Arrow IPC stream") as place:
        for batch in batches(source):
            whole = pl.read_ipc_stream(io.BytesIO(batch))
            if not place.row:
                check_schema(whole.schema, name)
            for part in whole.iter_slices(ROWS_AT_ONCE):
                yield Frame(part, None)
                place.row += part.height


def _slices(table: pl.LazyFrame, place: _Place) -> Iterator[Frame]:
    check_schema(table.collect_schema(), place.name)
    height: int = table.select(pl.len()).collect().item()
    for start in range(0, height, ROWS_AT_ONCE):
        place.row = start
        part = table.slice(start, ROWS_AT_ONCE).collect()
        yield Frame(part, min(1.0, (start + ROWS_AT_ONCE) / height))


@contextmanager
def _readable(name: str, kind: str) -> Generator[_Place]:
    """Turns what Polars says of foreign bytes into `FileUnreadable`."""
    place = _Place(name)
    try:
        yield place
    except (*FAILURES, NotArrow, OSError) as error:
        where = f" after row {place.row:,}" if place.row else ""
        reason = f": {error}" if isinstance(error, NotArrow) else ""
        raise FileUnreadable(
            f"{name} is not readable as {kind}{where}{reason}.",
            hint=SMALLER if isinstance(error, TooLarge) else ANEW,
        ) from error


def check_schema(schema: pl.Schema, name: str) -> None:
    """Raises `FileUnreadable` unless the columns are few and shallow enough."""
    if not 0 < len(schema) <= MAX_COLUMNS:
        raise FileUnreadable(
            f"{name} has {len(schema):,} columns; 1 to {MAX_COLUMNS:,} are taken.",
            hint="Keep the columns that the workflow names.",
        )
    for column, kind in schema.items():
        if _depth(kind) > MAX_DEPTH:
            raise FileUnreadable(
                f"{name}: column `{column[:80]}` is nested more than {MAX_DEPTH} levels deep.",
                hint="Leave the column out.",
            )


def rows_of(frame: pl.DataFrame) -> Iterator[Cells]:
    """The cells of each row; a row with a value that Python cannot hold is a problem of its own."""
    for start in range(0, frame.height, ROWS_IN_PYTHON):
        part = frame.slice(start, ROWS_IN_PYTHON)
        try:
            rows: Sequence[Cells] = part.rows()
        except FAILURES:
            rows = [_row(part, index) for index in range(part.height)]
        yield from rows


def _row(frame: pl.DataFrame, index: int) -> Cells:
    try:
        return frame.row(index)
    except FAILURES:
        return _NO_VALUE


def _depth(kind: pl.DataType) -> int:
    pending, depth = [kind], 0
    while pending:
        depth += 1
        pending = [inner for each in pending for inner in _inner(each)]
    return depth


def _inner(kind: pl.DataType) -> list[pl.DataType]:
    if isinstance(kind, pl.Struct):
        return [
            each.dtype() if isinstance(each.dtype, type) else each.dtype for each in kind.fields
        ]
    if isinstance(kind, pl.List | pl.Array):
        return [kind.inner() if isinstance(kind.inner, type) else kind.inner]
    return []
