"""Files of rejected rows: where they stand and why they were rejected, no contents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import orjson

from tiebreak.errors import InvalidInput, Problem


class RowsRejected(InvalidInput):
    """Some rows are not valid, and a strict run takes all rows or none."""

    code = "rows_rejected"


class RejectsFile:
    """One file of rejects. It appears with the first one; that of an earlier run is removed."""

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        if keep_bytes:
            os.truncate(path, keep_bytes)
            self._file = path.open("ab")
        else:
            path.unlink(missing_ok=True)

    def add(self, source: str, number: int, problems: tuple[Problem, ...]) -> None:
        """Write down why a row of the file `source` is rejected."""
        if self._file is None:
            self._file = self.path.open("wb")
        reasons = [problem.as_dict() for problem in problems]
        told = {"file": source, "row": number, "problems": reasons}
        self._file.write(orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE))

    def sync(self) -> int:
        """Make what was written durable; its size in bytes."""
        if self._file is None:
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Rejects:
    """The rejects of one file of rows; they go to `<file>.rejects.ndjson` unless told where."""

    def __init__(self, source: Path, file: RejectsFile | None = None) -> None:
        self.source = source.name.encode("utf-8", "replace").decode()
        self.file = file or RejectsFile(beside(source))
        self.count = 0

    def add(self, number: int, problems: tuple[Problem, ...]) -> None:
        """Write down why a row is rejected."""
        self.count += 1
        self.file.add(self.source, number, problems)


def beside(source: Path) -> Path:
    """Where the rejects of a file go by default."""
    return source.with_name(source.name + ".rejects.ndjson")
