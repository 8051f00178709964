"""Foreign files, read by a child process that may be killed, run out of memory or crash.

What Parquet and Arrow files hold decides how much memory their readers take, and a crafted one can
crash them. The child has limits; here its lines become rows again.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from datetime import date, datetime
from io import BufferedReader
from typing import Any, BinaryIO, cast

import orjson

from tiebreak.errors import Problem
from tiebreak.ingest.child import BATCH_CPU_SECONDS, MEMORY_BYTES
from tiebreak.ingest.rows import MAX_ROW_BYTES, FileUnreadable, Kind, Row
from tiebreak.supervised.process import ENVIRONMENT

LINE_BYTES = 4 * MAX_ROW_BYTES
READ_BYTES = 1 << 16
SMALLER = "Write it anew with row groups or record batches of some 10,000 rows."

_TIMES: dict[str, Callable[[str], date]] = {
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
}


class Decoder:
    """Turns a child's lines back into rows."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._columns: list[str] = []
        self._times: list[tuple[str, Callable[[str], date]]] = []
        self._is_ended = False
        self._number = 0
        self._rest = b""
        self.share = 0.0

    def rows(self, said: bytes) -> Iterator[tuple[Row | None, int]]:
        """Of each line that is whole the row, None for any other line, and its size in bytes.

        A line that a child did not end is none. Raises `FileUnreadable`.
        """
        *lines, self._rest = (self._rest + said).split(b"\n")
        if len(self._rest) > LINE_BYTES:
            raise FileUnreadable(f"{self._name} made its reader fail.", hint=SMALLER)
        for line in lines:
            yield self._row(line), len(line) + 1

    def _row(self, line: bytes) -> Row | None:
        said: Any = orjson.loads(line)
        if isinstance(said, dict):
            self._hear(said)  # pyright: ignore[reportUnknownArgumentType]
            return None
        self._number = said[0]
        if said[1] is None:
            return Row(said[0], {}, tuple(Problem(**each) for each in said[2]))
        cells: dict[str, Any] = dict(zip(self._columns, said[1], strict=True))
        for column, read in self._times:
            given = cells[column]
            if given is not None:
                cells[column] = read(given)
        return Row(said[0], cells)

    def end(self, exit_code: int) -> None:
        """The child has ended. Raises `FileUnreadable` when it had not read everything."""
        if self._is_ended:
            return
        where = f" after row {self._number:,}" if self._number else ""
        if exit_code == -signal.SIGXCPU:
            reason = f"takes more than {BATCH_CPU_SECONDS} seconds at once"
        elif exit_code > 0:
            reason = "made its reader fail"
        else:
            reason = f"needs more than {MEMORY_BYTES >> 20:,} MiB of memory, or is damaged"
        raise FileUnreadable(f"{self._name} cannot be read{where}: it {reason}.", hint=SMALLER)

    def _hear(self, said: dict[str, Any]) -> None:
        if "columns" in said:
            self._columns = said["columns"]
            self._times = [(column, _TIMES[kind]) for column, kind in said["times"].items()]
        elif "share" in said:
            self.share = said["share"]
        elif "failed" in said:
            raise FileUnreadable(said["failed"]["message"], hint=said["failed"]["hint"])
        else:
            self._is_ended = True


def command(kind: Kind, name: str) -> list[str]:
    """The command line of the child."""
    shown = name.encode("utf-8", "replace").decode().replace("\0", "?")
    return [sys.executable, "-I", "-m", "tiebreak.ingest.child", kind.value, shown]


def read_foreign(
    kind: Kind, source: BinaryIO, name: str, told: Callable[[float], None]
) -> Iterator[Row]:
    """The rows of an open file; `told` hears the share that is read, where it is known.

    Raises `FileUnreadable`.
    """
    decoder = Decoder(name)
    child = subprocess.Popen(
        command(kind, name),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        bufsize=READ_BYTES,
    )
    assert child.stdout is not None
    try:
        while said := cast("BufferedReader", child.stdout).read1():
            for row, _ in decoder.rows(said):
                if row is None:
                    told(decoder.share)
                else:
                    yield row
        decoder.end(child.wait())
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


async def stream_foreign(
    kind: Kind, source: BinaryIO | AsyncIterator[bytes], name: str
) -> AsyncGenerator[tuple[Row, int]]:
    """The rows of an open file, or of chunks while they come, each with its size in bytes.

    Raises `FileUnreadable`, and what `source` raises; then nothing is read that the chunks so far
    do not hold whole.
    """
    decoder = Decoder(name)
    is_file = not isinstance(source, AsyncIterator)
    child = await asyncio.create_subprocess_exec(
        *command(kind, name),
        stdin=source if is_file else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    assert child.stdout is not None
    feeding = None if is_file else asyncio.create_task(_feed(child, source))
    try:
        while said := await child.stdout.read(READ_BYTES):
            for row, size_bytes in decoder.rows(said):
                if row is not None:
                    yield row, size_bytes
        if feeding is not None:
            await feeding
        decoder.end(await child.wait())
    finally:
        if feeding is not None:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        if child.returncode is None:
            child.kill()
        await child.wait()


async def _feed(child: asyncio.subprocess.Process, chunks: AsyncIterator[bytes]) -> None:
    """Give the child what comes; what broke off must not look to it like an end."""
    assert child.stdin is not None
    try:
        async for chunk in chunks:
            child.stdin.write(chunk)
            await child.stdin.drain()
        child.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        return  # the child has had enough, and says why
    except BaseException:
        child.kill()
        raise
