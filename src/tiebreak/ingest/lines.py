"""Rows of NDJSON: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from tiebreak.core.bodies import load_object
from tiebreak.errors import Problem
from tiebreak.ingest.rows import MAX_ROW_BYTES, Row


def ndjson_rows(lines: BinaryIO) -> Iterator[Row]:
    """One row a line, numbered by lines; empty lines are passed over but counted."""
    number = 0
    while line := lines.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            _skip_line(lines)
            message = f"is longer than {MAX_ROW_BYTES:,} bytes"
            yield Row(number, {}, (Problem("", "too_long", message),))
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        loaded = load_object(line, depth=1)
        yield (Row(number, {}, loaded) if isinstance(loaded, tuple) else Row(number, loaded))


def _skip_line(lines: BinaryIO) -> None:
    while chunk := lines.readline(MAX_ROW_BYTES):
        if chunk.endswith(b"\n"):
            return
