"""Rows of files, and the kinds of files they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tiebreak.errors import InvalidInput, Problem

MAX_ROW_BYTES = 1 << 20  # as much as one ticket may have over HTTP


class FileUnreadable(InvalidInput):
    """The file cannot be read as a table of rows."""

    code = "file_unreadable"


class Kind(StrEnum):
    """How a file writes its rows."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"  # IPC, as a stream or as a file


SUFFIXES = {
    ".ndjson": Kind.NDJSON,
    ".jsonl": Kind.NDJSON,
    ".csv": Kind.CSV,
    ".parquet": Kind.PARQUET,
    ".arrow": Kind.ARROW,
    ".arrows": Kind.ARROW,
    ".feather": Kind.ARROW,
    ".ipc": Kind.ARROW,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its number from 1 and its cells by column, or why it has none."""

    number: int
    cells: Mapping[str, Any]
    problems: tuple[Problem, ...] = ()


def kind_of(path: Path) -> Kind:
    """The kind that a file's suffix names. Raises `FileUnreadable`."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise FileUnreadable(
            f"{path.name} is of no known kind.", hint=f"Use {', '.join(SUFFIXES)}."
        )
    return kind
