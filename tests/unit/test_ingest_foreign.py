"""A reader of foreign files that dies or says rubbish harms nobody but itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tiebreak.ingest.foreign import read_foreign, stream_foreign
from tiebreak.ingest.rows import FileUnreadable, Kind, Row

HEAD = r"""
import os, sys
say = lambda text: (sys.stdout.write(text), sys.stdout.flush())
say('{"columns": ["a"], "times": {}}\n[1, ["x"]]\n')
"""
Read = Callable[[Path, list[Row]], None]


def in_turn(path: Path, rows: list[Row]) -> None:
    with path.open("rb") as source:
        rows.extend(read_foreign(Kind.ARROW, source, path.name, lambda _: None))


def while_it_comes(path: Path, rows: list[Row]) -> None:
    async def read() -> None:
        with path.open("rb") as source:
            async for row, _ in stream_foreign(Kind.ARROW, source, path.name):
                rows.append(row)

    asyncio.run(read())


@pytest.mark.parametrize("read", [in_turn, while_it_comes])
@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("say('[2, [\"y'); os.kill(os.getpid(), 9)", "after row 1: it needs more than 1,024 MiB"),
        ("say('[2, [\"y'); sys.exit(3)", "after row 1: it made its reader fail"),
        ("while True: say('y' * 65536)", "made its reader fail"),
    ],
    ids=["killed", "failed", "endless"],
)
def test_a_line_without_an_end_is_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Read, program: str, says: str
) -> None:
    path = tmp_path / "t.arrow"
    path.write_bytes(b"")
    command = [sys.executable, "-c", HEAD + program]
    monkeypatch.setattr("tiebreak.ingest.foreign.command", lambda _kind, _name: command)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    rows = list[Row]()
    with pytest.raises(FileUnreadable, match=says):
        read(path, rows)
    assert rows in ([Row(1, {"a": "x"})], [])
