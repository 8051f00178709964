"""Many tickets in one request: lines or rows in, lines out, in order, in bounded memory.

Answers flow while tickets still come in. A client that sends everything before it reads anything
must not block itself, so answers it does not take yet wait in an unnamed temporary file.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tiebreak.ingest.rows import FileUnreadable
from tiebreak.web.bodies import Interrupted
from tiebreak.web.deadlines import Awaited
from tiebreak.web.problems import BodyTooSlow, document, known, status_of

MEDIA_TYPE = "application/x-ndjson"
LINES_IN_FLIGHT = 512
BYTES_IN_FLIGHT = 8 * 2**20
CHUNK_BYTES = 64 * 2**10
MEMORY_BYTES = 2**20  # of answers not taken; more go to a file
UNTAKEN_BYTES = 256 * 2**20  # of answers not taken; then no further line is read


@dataclass(frozen=True, slots=True)
class Entry:
    """One ticket of a batch: its line or row, its size, and how it is let be decided."""

    number: int
    size_bytes: int
    submit: Callable[[], Awaitable[Awaited]]


@dataclass(frozen=True, slots=True)
class Asked:
    """An entry that waits for its answer, or why it gets none."""

    number: int
    size_bytes: int
    answer: Awaited | Exception

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for."""
        return isinstance(self.answer, Exception) or self.answer.done()


class Spool:
    """Bytes that were written and not yet read, first in memory, then in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - closed by close
        self._written = 0
        self._read = 0
        self._is_ended = False
        self._changed = asyncio.Condition()

    async def write(self, data: bytes) -> None:
        """Add bytes; waits while too many are unread."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._written - self._read < UNTAKEN_BYTES)
            self._file.seek(self._written)
            self._written += self._file.write(data)
            self._changed.notify_all()

    async def end(self) -> None:
        """Nothing more will be written."""
        async with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    async def read(self) -> bytes:
        """The next bytes; waits for some, and is empty at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._written > self._read or self._is_ended)
            self._file.seek(self._read)
            data = self._file.read(CHUNK_BYTES)
            self._read += len(data)
            if self._read == self._written:
                self._file.truncate(0)
                self._read = self._written = 0
            self._changed.notify_all()
            return data

    def close(self) -> None:
        """Give the memory or the file back."""
        self._file.close()


class BatchResponse(Response):
    """Answers each entry with a line, in order; what is `held` for it is let go at its end.

    `count` is told the status of each line.
    """

    def __init__(
        self,
        request: Request,
        entries: AsyncGenerator[Entry],
        count: Callable[[int], None],
        held: ExitStack | None = None,
    ) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._request_id: str = request.scope["state"]["request_id"]
        self._entries = entries
        self._count = count
        self._held = held or ExitStack()
        self._spool = Spool()
        self._bytes = 0
        self._eased = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Read, decide and send at the same time until the body has ended or broken off."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        asked: asyncio.Queue[Asked | None] = asyncio.Queue(LINES_IN_FLIGHT)
        try:
            await send(start)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(asked))
                tasks.create_task(self._collect(asked))
                tasks.create_task(self._send(send))
        finally:
            self._spool.close()
            self._held.close()

    async def _take(self, asked: asyncio.Queue[Asked | None]) -> None:
        """Let each entry be decided as it comes; what a broken connection cut off is dropped."""
        number = 0
        try:
            async with aclosing(self._entries) as entries:
                async for entry in entries:
                    number = entry.number
                    await self._room(entry)
                    try:
                        answer = await entry.submit()
                    except Exception as error:  # noqa: BLE001 - it is this line's answer
                        answer = error
                    await asked.put(Asked(number, entry.size_bytes, answer))
        except ClientDisconnect:
            pass
        except (Interrupted, BodyTooSlow, FileUnreadable) as error:
            await asked.put(Asked(number + 1, 0, error))
        await asked.put(None)

    async def _room(self, entry: Entry) -> None:
        while self._bytes and self._bytes + entry.size_bytes > BYTES_IN_FLIGHT:
            self._eased.clear()
            await self._eased.wait()
        self._bytes += entry.size_bytes

    async def _collect(self, asked: asyncio.Queue[Asked | None]) -> None:
        """Write answers in their order; those that are there already go together."""
        lines = b""
        while (each := await asked.get()) is not None:
            if lines and not each.is_done:
                await self._spool.write(lines)
                lines = b""
            lines += await self._line(each)
            if len(lines) >= CHUNK_BYTES or asked.empty():
                await self._spool.write(lines)
                lines = b""
        if lines:
            await self._spool.write(lines)
        await self._spool.end()

    async def _line(self, asked: Asked) -> bytes:
        status, told = 200, dict[str, Any]()
        try:
            if isinstance(asked.answer, Exception):
                raise asked.answer
            told["decision"] = await asked.answer
        except Exception as error:  # noqa: BLE001 - every failure becomes a problem document
            problem = known(error, self._request_id)
            status = status_of(problem)
            told["error"] = document(problem, self._request_id)
        self._bytes -= asked.size_bytes
        self._eased.set()
        self._count(status)
        line = {"line": asked.number, "status": status, **told}
        return orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)

    async def _send(self, send: Send) -> None:
        while chunk := await self._spool.read():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
