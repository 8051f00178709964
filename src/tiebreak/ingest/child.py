"""The process that reads one foreign file: `python -m tiebreak.ingest.child KIND NAME < FILE`.

It has little memory, a time limit a batch, and no secrets, and writes one JSON text a line: the
columns `{"columns": […], "times": {…}}`, rows `[number, [cell, …]]` or `[number, null, [problem,
…]]`, how far it is `{"share": 0.5}`, and at last `{"end": true}` or `{"failed": {…}}`.
`ingest.foreign` reads them.
"""

from __future__ import annotations

import io
import math
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import orjson

from tiebreak.errors import Problem
from tiebreak.ingest.delimited import csv_rows
from tiebreak.ingest.rows import MAX_ROW_BYTES, FileUnreadable, Kind, Row
from tiebreak.supervised.limits import allow_cpu, confine

if TYPE_CHECKING:
    from tiebreak.ingest.tables import Frame

MEMORY_BYTES = 1 << 30
BATCH_CPU_SECONDS = 60
OUTPUT_BYTES = 1 << 16
MOST_EXPANSION = 1_000  # bytes of rows for one byte of the file
FREE_BYTES = 256 << 20  # of rows, however small the file is
ROW_BYTES = 64  # what a row counts at least
ARROW_FILE = b"ARROW1"
STANDARD_INPUT = "/proc/self/fd/0"

_TOO_LONG = Problem("", "too_long", f"is longer than {MAX_ROW_BYTES:,} bytes")
_NO_JSON = Problem("", "unreadable", "holds a value that cannot be read", "see its columns' types")


class Writer:
    """Writes lines to the parent, and stops a file that expands without end."""

    def __init__(self, out: BinaryIO, name: str) -> None:
        self._out = out
        self._name = name
        self._waiting = bytearray()
        self._rows_bytes = 0
        self.input_bytes = 0

    def say(self, line: object) -> None:
        """Write anything but a row."""
        self._put(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def row(self, number: int, cells: Sequence[Any]) -> None:
        """Write a row; one that is too long or holds what is not JSON becomes a problem."""
        try:
            line = orjson.dumps([number, cells], _plain, orjson.OPT_APPEND_NEWLINE)
        except (orjson.JSONEncodeError, ValueError):
            self.problem(number, (_NO_JSON,))
            return
        if len(line) > MAX_ROW_BYTES:
            self.problem(number, (_TOO_LONG,))
            return
        self._count(len(line), number)
        self._put(line)

    def problem(self, number: int, problems: Iterable[Problem]) -> None:
        """Write why a row has no cells."""
        self._count(0, number)
        self.say([number, None, [each.as_dict() for each in problems]])

    def flush(self) -> None:
        """Let the parent have all that is written."""
        self._out.write(self._waiting)
        self._out.flush()
        self._waiting.clear()

    def _put(self, line: bytes) -> None:
        self._waiting += line
        if len(self._waiting) > OUTPUT_BYTES:
            self.flush()

    def _count(self, size: int, number: int) -> None:
        self._rows_bytes += max(size, ROW_BYTES)
        if self._rows_bytes > max(FREE_BYTES, MOST_EXPANSION * self.input_bytes):
            raise FileUnreadable(
                f"{self._name} grows to more than {MOST_EXPANSION:,} times its size by row "
                f"{number:,}.",
                hint="Nothing after that row is read; send such a file without compression.",
            )


class Source(io.RawIOBase):
    """Standard input; before it may have to wait it lets go of what was written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there."""
        self._writer.flush()
        size = os.readv(0, [buffer])
        self._writer.input_bytes += size
        return size


def main() -> None:
    """Read standard input and write its rows."""
    kind, name = Kind(sys.argv[1]), sys.argv[2]
    confine(MEMORY_BYTES)
    allow_cpu(BATCH_CPU_SECONDS)
    writer = Writer(sys.stdout.buffer, name)
    try:
        _read(kind, name, writer)
    except FileUnreadable as error:
        writer.say({"failed": {"message": error.message, "hint": error.hint}})
    except MemoryError:
        os.abort()  # as Polars does when it gets no more
    else:
        writer.say({"end": True})
    writer.flush()


def _read(kind: Kind, name: str, writer: Writer) -> None:
    status = os.fstat(0)
    source = cast("BinaryIO", io.BufferedReader(Source(writer), MAX_ROW_BYTES))
    if kind is Kind.CSV:
        _write_rows(csv_rows(source, name), writer)
        return
    from tiebreak.ingest import tables  # here: its import is half the start, and CSV needs none

    if kind is Kind.ARROW and not _is_arrow_file(source):
        frames = tables.arrow_stream_frames(source, name)
    elif not stat.S_ISREG(status.st_mode):
        raise FileUnreadable(f"{name} must be in the stream format.", hint="Send a stream.")
    else:
        writer.input_bytes = status.st_size
        read = tables.arrow_file_frames if kind is Kind.ARROW else tables.parquet_frames
        frames = read(STANDARD_INPUT, name)
    _write_frames(frames, writer)


def _is_arrow_file(source: BinaryIO) -> bool:
    return cast("io.BufferedReader", source).peek(8).startswith(ARROW_FILE)


def _write_rows(rows: Iterator[Row], writer: Writer) -> None:
    header: list[str] | None = None
    for row in rows:
        if row.number % 1000 == 0:
            allow_cpu(BATCH_CPU_SECONDS)
        if row.problems:
            writer.problem(row.number, row.problems)
            continue
        if header is None:
            header = list(row.cells)
            writer.say({"columns": header, "times": {}})
        writer.row(row.number, list(row.cells.values()))


def _write_frames(frames: Iterator[Frame], writer: Writer) -> None:
    from tiebreak.ingest import tables

    number = 0
    for frame in frames:
        if not number:
            writer.say(_columns(frame))
        columns = _not_finite(frame)
        for cells in tables.rows_of(frame.rows):
            number += 1
            if isinstance(cells, Problem):
                writer.problem(number, (cells,))
            else:
                writer.row(number, _as_texts(cells, columns) if columns else cells)
        if frame.share is not None:
            writer.say({"share": frame.share})
        allow_cpu(BATCH_CPU_SECONDS)


def _not_finite(frame: Frame) -> list[int]:
    """The columns with NaN or infinities, for which JSON has no word but null."""
    return [
        index
        for index, column in enumerate(frame.rows)
        if column.dtype.is_float() and not column.is_finite().all()
    ]


def _as_texts(cells: tuple[Any, ...], columns: list[int]) -> list[Any]:
    found = list(cells)
    for index in columns:
        if found[index] is not None and not math.isfinite(found[index]):
            found[index] = str(found[index])
    return found


def _columns(frame: Frame) -> dict[str, object]:
    kinds = {name: str(kind) for name, kind in frame.rows.schema.items()}
    times = {
        name: "date" if kind == "Date" else "datetime"
        for name, kind in kinds.items()
        if kind.startswith("Date")
    }
    return {"columns": list(kinds), "times": times}


def _plain(value: object) -> object:
    """What JSON has no word for: decimals as text, and all else as what no field takes."""
    if isinstance(value, Decimal):
        return str(value)
    return {"type": type(value).__name__}


if __name__ == "__main__":
    main()
