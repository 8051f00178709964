"""Files of tickets as streams of rows: NDJSON, CSV and Parquet; and files of what was rejected."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson
import polars as pl

from tiebreak.core.bodies import load_object
from tiebreak.errors import InvalidInput, Problem

MAX_LINE_BYTES = 1 << 20  # of NDJSON; as much as one ticket may have over HTTP
MAX_CELL_CHARACTERS = csv.field_size_limit()  # of CSV: 131,072, set by Python's csv module
PARQUET_ROWS_AT_ONCE = 20_000

NDJSON_SUFFIXES = (".ndjson", ".jsonl")


class FileUnreadable(InvalidInput):
    """The file cannot be read as a table of rows."""

    code = "file_unreadable"


class RowsRejected(InvalidInput):
    """Some rows are not valid, and a strict run takes all rows or none."""

    code = "rows_rejected"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its number from 1 and its cells by column, or why it has none."""

    number: int
    cells: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of an `.ndjson`, `.jsonl`, `.csv` or `.parquet` file, in order, as a stream.

    A row that cannot be read is a row with problems and does not disturb the others. Raises
    `FileUnreadable` when the file as a whole is none of these.
    """
    suffix = path.suffix.lower()
    if suffix not in (*NDJSON_SUFFIXES, ".csv", ".parquet"):
        raise FileUnreadable(
            f"{path.name} is of no known kind.", hint="Use .ndjson, .jsonl, .csv or .parquet."
        )
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        elif suffix == ".csv":
            yield from _csv(path)
        else:
            yield from _ndjson(path)
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise FileUnreadable(f"{path.name}: {reason}.") from error


def _ndjson(path: Path) -> Iterator[Row]:
    """One JSON object a line; empty lines are passed over but counted."""
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(lines)
                message = f"is longer than {MAX_LINE_BYTES:,} bytes"
                yield Row(number, {}, (Problem("", "too_long", message),))
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            loaded = load_object(line, depth=1)
            yield (Row(number, {}, loaded) if isinstance(loaded, tuple) else Row(number, loaded))


def _skip_line(lines: IO[bytes]) -> None:
    while chunk := lines.readline(MAX_LINE_BYTES):
        if chunk.endswith(b"\n"):
            return


def _csv(path: Path) -> Iterator[Row]:
    """Comma-separated with a header; data rows count from 1. Bytes that are not UTF-8 are kept
    aside as surrogates, so that they spoil only the row they stand in."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        records = csv.reader(text)
        header = _header(records, path)
        number = 0
        while True:
            number += 1
            first_line = records.line_num + 1
            try:
                cells = next(records)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(number, {}, (_broken_record(first_line, records.line_num, error),))
                continue
            if not cells:
                number -= 1
                continue
            yield _csv_row(number, header, cells)


def _header(records: Iterator[list[str]], path: Path) -> list[str]:
    try:
        header = next(records, None)
    except csv.Error as error:
        raise FileUnreadable(f"{path.name}: its header cannot be read: {error}.") from error
    if not header or any(not _is_utf8(name) for name in header):
        raise FileUnreadable(f"{path.name} has no header in UTF-8.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        names = ", ".join(f"`{name}`" for name in twice[:5])
        raise FileUnreadable(f"{path.name} has columns of the same name: {names}.")
    return header


def _csv_row(number: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        message = f"has {len(cells)} cells where the header has {len(header)}"
        return Row(number, {}, (Problem("", "wrong_cells", message),))
    spoilt = [name for name, cell in zip(header, cells, strict=True) if not _is_utf8(cell)]
    if spoilt:
        problems = (
            Problem(name, "invalid_utf8", "is not UTF-8", "save as UTF-8") for name in spoilt
        )
        return Row(number, {}, tuple(problems))
    return Row(number, dict(zip(header, cells, strict=True)))


def _broken_record(first_line: int, last_line: int, error: csv.Error) -> Problem:
    lines = (
        f"line {first_line}" if first_line >= last_line else f"lines {first_line} to {last_line}"
    )
    hint = "a cell is too long, or a quote is not closed" if "field" in str(error) else ""
    return Problem("", "not_csv", f"{lines}: {error}", hint)


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        if not path.is_file():
            raise FileNotFoundError(2, "No such file")
        table = pl.scan_parquet(path)
        height = table.select(pl.len()).collect().item()
        for start in range(0, height, PARQUET_ROWS_AT_ONCE):
            part = table.slice(start, PARQUET_ROWS_AT_ONCE).collect()
            for number, cells in enumerate(part.iter_rows(named=True), start + 1):
                yield Row(number, cells)
    except pl.exceptions.PolarsError as error:
        raise FileUnreadable(f"{path.name} is not a readable Parquet file.") from error


class Rejects:
    """The rejects of one file, `<file>.rejects.ndjson`: row numbers and reasons, no contents.

    They stand beside the file, or in `folder`. The file of rejects appears with the first one;
    that of an earlier run is removed.
    """

    def __init__(self, source: Path, folder: Path | None = None) -> None:
        self.path = (folder or source.parent) / (source.name + ".rejects.ndjson")
        self.count = 0
        self._file: IO[bytes] | None = None
        self.path.unlink(missing_ok=True)

    def add(self, number: int, problems: tuple[Problem, ...]) -> None:
        """Write down why a row is rejected."""
        if self._file is None:
            self._file = self.path.open("wb")
        self.count += 1
        reasons = [problem.as_dict() for problem in problems]
        self._file.write(orjson.dumps({"row": number, "problems": reasons}) + b"\n")

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
