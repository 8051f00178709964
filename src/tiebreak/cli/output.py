"""How commands speak: results on standard output, all else on standard error.

With `--json` a command writes exactly one JSON document to standard output, and nothing that is
only for people anywhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import orjson
import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_LONG_ID = re.compile(r"[0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")

JsonOption = Annotated[bool, typer.Option("--json", help="Write one JSON document.")]


class Progress(Protocol):
    """Told by long work how far it is."""

    def __call__(self, step: str, share: float, /) -> None:
        """Name the step at work and the share that is done, from 0 to 1."""
        ...


class Output:
    """One command's voice."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    def result(self, data: Mapping[str, Any] | Sequence[Any], *human: RenderableType) -> None:
        """The command's result: `data` with --json, else what is for people."""
        if self.as_json:
            sys.stdout.buffer.write(orjson.dumps(data, default=str) + b"\n")
            sys.stdout.buffer.flush()
            return
        console = _console()
        for part in human:
            console.print(part)

    def note(self, text: str) -> None:
        """A remark for people on standard error, such as what is being done."""
        if not self.as_json:
            _console(stderr=True).print(text, highlight=False)

    @contextmanager
    def progress(self, title: str) -> Generator[Progress]:
        """A progress bar on standard error; silent with --json or without a terminal."""
        if self.as_json or not sys.stderr.isatty():
            yield lambda _step, _share: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=_console(stderr=True)) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda step, share: bar.update(task, description=step, completed=share)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> RenderableType:
    """A plain table for people."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(str(value) for value in row))
    return made


def short(value: object) -> str:
    """A value in a table: the first digits of hashes and ids, a moment's minute, "" for None."""
    if isinstance(value, datetime):
        return minute(value)
    text = "" if value is None else str(value)
    if not _LONG_ID.fullmatch(text):
        return text
    return text[:8] if "-" in text else text[:12]


def minute(moment: datetime) -> str:
    """A moment for people, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, soft_wrap=True)
