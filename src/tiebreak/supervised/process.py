"""A process that does one job: it is given the job, tells lines, and ends when it is told to.

It runs in a group of its own, so that what it has started ends with it, gets no environment but
what is given here, and dies with the process that started it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from tiebreak.errors import Unavailable
from tiebreak.supervised.limits import is_full
from tiebreak.supervised.told import LINE_BYTES

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "POLARS_MAX_THREADS": "1",
}
LAST_WORDS_BYTES = 4096


class ProcessEnded(Unavailable):
    """A process ended before its work was done."""

    code = "process_ended"

    def __init__(self, exit_code: int, last_words: str) -> None:
        how = f"by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"with code {exit_code}"
        super().__init__(f"The process ended {how}.", exit_code=exit_code)
        self.exit_code = exit_code
        self.last_words = last_words


class Supervised:
    """A running process. Use it through `supervised`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._last_words = asyncio.create_task(self._errors())

    @property
    def pid(self) -> int:
        """Its pid, which is its group's too."""
        return self._process.pid

    def takes_more_than(self, memory_bytes: int) -> bool:
        """Whether it uses more memory than this, or has reserved all that it was let."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
            used = int(pages) * os.sysconf("SC_PAGE_SIZE")
            return used > memory_bytes or is_full(self.pid)
        except (OSError, IndexError):  # it has ended
            return False

    async def give(self, job: bytes) -> None:
        """Give it the job; one that has ended already is told of by `lines`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(job)
            await self._process.stdin.drain()
            self._process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            return

    async def lines(self) -> AsyncGenerator[dict[str, Any]]:
        """What it tells, to the end. Raises ProcessEnded unless it ended well."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            yield orjson.loads(line)
        await self._ended_well()

    async def payload(self, announced: Mapping[str, Any]) -> bytes:
        """The bytes that a line announced, whole and unchanged. Raises ProcessEnded."""
        assert self._process.stdout is not None
        try:
            data = await self._process.stdout.readexactly(announced["bytes"])
        except asyncio.IncompleteReadError:
            raise ProcessEnded(await self._process.wait(), await self._last_words) from None
        await self._ended_well()
        if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), announced["sha256"]):
            raise ProcessEnded(0, "what it handed over is not what it announced")
        return data

    async def kill(self) -> None:
        """End it and its group, whatever they do."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self._read_to_end()
            await self._process.wait()
        self._last_words.cancel()

    async def _read_to_end(self) -> None:
        """Empty what it left: asyncio waits for a pipe's end, which comes after all it holds."""
        assert self._process.stdout is not None
        while await self._process.stdout.read(LINE_BYTES):
            pass

    async def _ended_well(self) -> None:
        code = await self._process.wait()
        if code:
            raise ProcessEnded(code, await self._last_words)

    async def _errors(self) -> str:
        """The last of what it writes to standard error: for telling causes apart, never kept."""
        assert self._process.stderr is not None
        kept = b""
        while part := await self._process.stderr.read(LAST_WORDS_BYTES):
            kept = (kept + part)[-LAST_WORDS_BYTES:]
        return kept.decode(errors="replace")


@asynccontextmanager
async def supervised(
    module: str, job: bytes, environment: Mapping[str, str] = ENVIRONMENT
) -> AsyncGenerator[Supervised]:
    """The module as a process that has been given its job; at the end of the block it is over."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-s", "-m", "tiebreak.supervised.start", str(os.getpid()), module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
        limit=LINE_BYTES,
    )
    child = Supervised(process)
    try:
        await child.give(job)
        yield child
    finally:
        await child.kill()
