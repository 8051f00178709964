"""Rows of CSV: comma-separated, with a header, in UTF-8."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO

from tiebreak.errors import Problem
from tiebreak.ingest.rows import MAX_ROW_BYTES, FileUnreadable, Row

MAX_CELL_CHARACTERS = csv.field_size_limit()  # 131,072, set by Python's csv module

_NOT_CLOSED = "a quote is not closed before the end of the file"


class _Lines:
    """Lines for the csv reader; a record that grows too long is broken off."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._characters = 0
        self.count = 0
        self.is_cut = False  # the file ended inside a record

    def begin(self) -> None:
        """The next line begins a record."""
        self._characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_ROW_BYTES + 1)
        if not line:
            self.is_cut = self._characters > 0
            raise StopIteration
        self.count += 1
        self._characters += len(line)
        if self._characters > MAX_ROW_BYTES:
            while line and line[-1] not in "\r\n":
                line = self._text.readline(MAX_ROW_BYTES)
            raise csv.Error(f"the row is longer than {MAX_ROW_BYTES:,} characters")
        return line


def csv_rows(source: BinaryIO, name: str) -> Iterator[Row]:
    """The rows after the header, counted from 1; blank ones are not counted.

    Bytes that are not UTF-8 are kept aside as surrogates, so that they spoil only the row they
    stand in. Raises `FileUnreadable` for a header that is none.
    """
    text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")
    lines = _Lines(text)
    records = csv.reader(lines)
    header = _header(records, name)
    number = 0
    while True:
        number += 1
        first_line = lines.count + 1
        lines.begin()
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(number, {}, (_broken_record(first_line, lines.count, str(error)),))
            continue
        if lines.is_cut:
            yield Row(number, {}, (_broken_record(first_line, lines.count, _NOT_CLOSED),))
            return
        if not cells:
            number -= 1
            continue
        yield _row(number, header, cells)


def _header(records: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = next(records, None)
    except csv.Error as error:
        raise FileUnreadable(f"{name}: its header cannot be read: {error}.") from error
    if not header or any(not _is_utf8(column) for column in header):
        raise FileUnreadable(f"{name} has no header in UTF-8.", hint="Name the columns in row 1.")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        names = ", ".join(f"`{column[:80]}`" for column in twice[:5])
        raise FileUnreadable(
            f"{name} has columns of the same name: {names}.", hint="Give each its own name."
        )
    return header


def _row(number: int, header: list[str], cells: list[str]) -> Row:
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


def _broken_record(first_line: int, last_line: int, reason: str) -> Problem:
    lines = (
        f"line {first_line}" if first_line >= last_line else f"lines {first_line} to {last_line}"
    )
    hint = "a cell is too long, or a quote is not closed" if "limit" in reason else ""
    return Problem("", "not_csv", f"{lines}: {reason}", hint)


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)
