"""Files of tickets as streams of rows: NDJSON, CSV, Parquet and Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tiebreak.ingest.delimited import csv_rows
from tiebreak.ingest.foreign import read_foreign
from tiebreak.ingest.lines import ndjson_rows
from tiebreak.ingest.rows import FileUnreadable, Kind, Row, kind_of

ROWS_BETWEEN = 1_000  # two reports of how far the reading is

Told = Callable[[float], None]


def _silent(_share: float) -> None:
    """Nobody asks how far it is."""


def read_rows(path: Path, told: Told = _silent) -> Iterator[Row]:
    """The rows of a file, in order, as a stream in bounded memory; the suffix names its kind.

    A row that cannot be read is a row with problems and does not disturb the others; `told` hears
    now and then the share of the file that is read. Raises `FileUnreadable` when the file as a
    whole is none of its kind, or not from some row on.
    """
    kind = kind_of(path)
    try:
        if not path.is_file():
            path.open("rb").close()  # for the system's own reason
            raise FileUnreadable(f"{path.name} is not a file.", hint="Name a file of tickets.")
        yield from _read(path, kind, told)
    except OSError as error:
        reason = error.strerror or "it cannot be opened"
        raise FileUnreadable(f"{path.name}: {reason}.", hint="Check the path.") from error


def _read(path: Path, kind: Kind, told: Told) -> Iterator[Row]:
    with path.open("rb") as source:
        if kind in (Kind.PARQUET, Kind.ARROW):
            yield from read_foreign(kind, source, path.name, told)
            return
        size = path.stat().st_size
        rows = csv_rows(source, path.name) if kind is Kind.CSV else ndjson_rows(source)
        for row in rows:
            if row.number % ROWS_BETWEEN == 0:
                told(min(1.0, source.tell() / max(size, 1)))
            yield row
