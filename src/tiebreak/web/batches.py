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

from tiebreak.errors import TiebreakError
from tiebreak.ingest.rows import FileUnreadable
from tiebreak.web.bodies import Interrupted
from tiebreak.web.problems import BodyTooSlow, document, status_of

MEDIA_TYPE = "application/x-ndjson"
LINES_IN_FLIGHT = 512
BYTES_IN_FLIGHT = 8 * 2**20
CHUNK_BYTES = 64 * 2**10
MEMORY_BYTES = 2**20  # of answers not taken; more go to a file
UNTAKEN_BYTES = 256 * 2**20  # of answers not taken; then no further line is read

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One ticket of a batch: its line or row, its size, and how it is decided."""

    number: int
    size_bytes: int
    decide: Callable[[], Awaitable[Answer]]


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
    """Answers each entry with a line, in order; what is `held` for it is let go at its end."""

    def __init__(
        self, request: Request, entries: AsyncGenerator[Entry], held: ExitStack | None = None
    ) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._request_id: str = request.scope["state"]["request_id"]
        self._entries = entries
        self._held = held or ExitStack()
        self._spool = Spool()
        self._bytes = 0
        self._eased = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Read, decide and send at the same time until the body has ended or broken off."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(LINES_IN_FLIGHT)
        try:
            await send(start)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(tasks, answers))
                tasks.create_task(self._collect(answers))
                tasks.create_task(self._send(send))
        finally:
            self._spool.close()
            self._held.close()

    async def _take(
        self, tasks: asyncio.TaskGroup, answers: asyncio.Queue[asyncio.Task[bytes] | None]
    ) -> None:
        """Start deciding each entry as it comes; what a broken connection cut off is dropped."""
        number = 0
        try:
            async with aclosing(self._entries) as entries:
                async for entry in entries:
                    number = entry.number
                    await self._room(entry)
                    await answers.put(tasks.create_task(self._answer(entry)))
        except ClientDisconnect:
            pass
        except (Interrupted, BodyTooSlow, FileUnreadable) as error:
            last = self._failed(number + 1, error)
            await answers.put(tasks.create_task(_ready(last)))
        await answers.put(None)

    async def _room(self, entry: Entry) -> None:
        while self._bytes and self._bytes + entry.size_bytes > BYTES_IN_FLIGHT:
            self._eased.clear()
            await self._eased.wait()
        self._bytes += entry.size_bytes

    async def _answer(self, entry: Entry) -> bytes:
        try:
            answer = await entry.decide()
        except TiebreakError as error:
            return self._failed(entry.number, error)
        finally:
            self._bytes -= entry.size_bytes
            self._eased.set()
        told = {"line": entry.number, "status": 200, "decision": answer}
        return orjson.dumps(told, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)

    def _failed(self, number: int, error: TiebreakError) -> bytes:
        problem = document(error, self._request_id)
        told = {"line": number, "status": status_of(error), "error": problem}
        return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)

    async def _collect(self, answers: asyncio.Queue[asyncio.Task[bytes] | None]) -> None:
        while (answer := await answers.get()) is not None:
            await self._spool.write(await answer)
        await self._spool.end()

    async def _send(self, send: Send) -> None:
        while chunk := await self._spool.read():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _ready(data: bytes) -> bytes:
    return data
