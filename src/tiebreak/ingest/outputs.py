"""What a run over a file writes, and the mark that lets the next run go on after a crash.

The mark `<decisions>.mark` says how many bytes of decisions and rejects are whole and durable and
which row they reach. Bytes after the mark are cut off when a run goes on, and those rows are
decided again; the service answers them with the decisions that are stored.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import orjson

from tiebreak.errors import Conflict, InvalidInput, Problem
from tiebreak.ingest.rejects import Rejects, RejectsFile


class OutputBusy(Conflict):
    """Another run writes this file of decisions."""

    code = "output_busy"


class OutputIsInput(InvalidInput):
    """A file that is read would be overwritten."""

    code = "output_is_input"


class OutputUnwritable(InvalidInput):
    """A file of results cannot be written."""

    code = "output_unwritable"


@dataclass(frozen=True, slots=True)
class Mark:
    """Which file a run reads, and how far its results are whole."""

    workflow: str
    file_bytes: int
    changed_ns: int
    rejects: str
    row: int = 0
    decided: int = 0
    rejected: int = 0
    decisions_bytes: int = 0
    rejects_bytes: int = 0


class Outputs:
    """The decisions and rejects of one run over a file. Use `opened`, then `finish` or `close`."""

    def __init__(self, mark: Mark, mark_path: Path, decisions: IO[bytes], rejects: Rejects) -> None:
        self.mark = mark
        self.rejects = rejects
        self._mark_path = mark_path
        self._decisions = decisions

    @classmethod
    def opened(cls, source: Path, workflow: str, decisions: Path, rejects: Path) -> Outputs:
        """Open the files; they go on after the mark of an interrupted run over the same file.

        Raises `OutputBusy`, `OutputIsInput`, `OutputUnwritable`.
        """
        refuse_overwriting(decisions, [source, rejects])
        refuse_overwriting(rejects, [source])
        try:
            return cls._opened(source, workflow, decisions, rejects)
        except OSError as error:
            raise OutputUnwritable(
                f"{error.filename or decisions}: {error.strerror}.", hint="Name another path."
            ) from error

    @classmethod
    def _opened(cls, source: Path, workflow: str, decisions: Path, rejects: Path) -> Outputs:
        sink = decisions.open("ab")
        _lock(sink, decisions)
        status = source.stat()
        told = str(rejects.absolute())
        fresh = Mark(workflow, status.st_size, status.st_mtime_ns, told)
        mark_path = _mark_of(decisions)
        mark = _read_mark(mark_path, fresh, decisions, rejects)
        sink.truncate(mark.decisions_bytes)
        return cls(mark, mark_path, sink, Rejects(source, RejectsFile(rejects, mark.rejects_bytes)))

    def decide(self, answer: dict[str, Any]) -> None:
        """Write a decision."""
        self._decisions.write(orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE))
        self.mark = replace(self.mark, decided=self.mark.decided + 1)

    def reject(self, number: int, problems: tuple[Problem, ...]) -> None:
        """Write why a row has no decision."""
        self.rejects.add(number, problems)
        self.mark = replace(self.mark, rejected=self.mark.rejected + 1)

    def keep(self, row: int) -> None:
        """Make everything up to this row durable, so that no later run repeats it."""
        self._decisions.flush()
        os.fsync(self._decisions.fileno())
        self.mark = replace(
            self.mark,
            row=row,
            decisions_bytes=os.fstat(self._decisions.fileno()).st_size,
            rejects_bytes=self.rejects.file.sync(),
        )
        new = self._mark_path.with_name(self._mark_path.name + ".new")
        with new.open("wb") as file:
            file.write(orjson.dumps(asdict(self.mark)))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._mark_path)

    def finish(self, row: int) -> None:
        """The whole file is done."""
        self.keep(row)
        self._mark_path.unlink()

    def close(self) -> None:
        """Let the files go, done or not."""
        self._decisions.close()
        self.rejects.file.close()


@contextmanager
def rejects_of_check(source: Path, decisions: Path, rejects: Path) -> Generator[Rejects | None]:
    """Where a check tells bad rows; None while an interrupted run that is to go on needs the file.

    Raises `OutputBusy` when a run writes, and `OutputIsInput`.
    """
    refuse_overwriting(rejects, [source])
    with ExitStack() as held:
        if decisions.exists():
            _lock(held.enter_context(decisions.open("rb")), decisions)
        if _mark_of(decisions).exists():
            yield None
            return
        found = Rejects(source, RejectsFile(rejects))
        held.callback(found.file.close)
        yield found


def _lock(file: IO[bytes], decisions: Path) -> None:
    """Hold a file of decisions until it is closed. Raises `OutputBusy`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise OutputBusy(
            f"Another run writes {decisions}.", hint="Wait for it, or name another with --out."
        ) from None


def _mark_of(decisions: Path) -> Path:
    return decisions.with_name(decisions.name + ".mark")


def refuse_overwriting(path: Path, inputs: list[Path]) -> None:
    """Raises `OutputIsInput` when `path` is one of these files."""
    if any(path.resolve() == each.resolve() for each in inputs):
        raise OutputIsInput(f"{path} is read by this run.", hint="Name another path.")


def _read_mark(path: Path, fresh: Mark, decisions: Path, rejects: Path) -> Mark:
    """The mark that an interrupted run left; `fresh` when it is of other files or does not fit."""
    try:
        mark = Mark(**orjson.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return fresh
    same = replace(mark, row=0, decided=0, rejected=0, decisions_bytes=0, rejects_bytes=0)
    if same != fresh or decisions.stat().st_size < mark.decisions_bytes:
        return fresh
    if mark.rejects_bytes and (
        not rejects.is_file() or rejects.stat().st_size < mark.rejects_bytes
    ):
        return fresh
    return mark
