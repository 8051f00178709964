"""Many tickets in one request: lines in, lines out, in order, in bounded memory.

Answers flow while lines still come in. A client that sends everything before it reads anything
must not block itself, so answers it does not take yet wait in an unnamed temporary file.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tiebreak.errors import TiebreakError, Unavailable
from tiebreak.web.bodies import BODY_SECONDS, Line, read_lines
from tiebreak.web.problems import BodyTooSlow, document, status_of

MEDIA_TYPE = "application/x-ndjson"
LINES_IN_FLIGHT = 64
BYTES_IN_FLIGHT = 8 * 2**20
CHUNK_BYTES = 64 * 2**10
MEMORY_BYTES = 2**20  # of answers not taken; more go to a file
UNTAKEN_BYTES = 256 * 2**20  # of answers not taken; then no further line is read

Answer = dict[str, Any]
Decide = Callable[[Line], Awaitable[Answer]]


class Interrupted(Unavailable):
    """The server shuts down; lines from this one on were not read."""

    code = "interrupted"


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


@dataclass(frozen=True, slots=True)
class Limits:
    """What one batch may take: bytes a line, and the sign to stop reading."""

    line_bytes: int
    draining: asyncio.Event


class BatchResponse(Response):
    """Answers each line of the request's body with a line, in order."""

    def __init__(self, request: Request, decide: Decide, limits: Limits) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._request = request
        self._decide = decide
        self._limits = limits
        self._spool = Spool()
        self._bytes = 0
        self._eased = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Read, decide and send at the same time until the body has ended or broken off."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(LINES_IN_FLIGHT)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(tasks, answers))
                tasks.create_task(self._collect(answers))
                tasks.create_task(self._send(send))
        finally:
            self._spool.close()

    async def _take(
        self, tasks: asyncio.TaskGroup, answers: asyncio.Queue[asyncio.Task[bytes] | None]
    ) -> None:
        """Start deciding each line as it comes; what a broken connection cut off is dropped."""
        number = 0
        try:
            async for line in read_lines(self._chunks(), self._limits.line_bytes):
                number = line.number
                await self._room(line)
                await answers.put(tasks.create_task(self._answer(line)))
        except ClientDisconnect:
            pass
        except (Interrupted, BodyTooSlow) as error:
            last = self._failed(number + 1, error)
            await answers.put(tasks.create_task(_ready(last)))
        await answers.put(None)

    async def _chunks(self) -> AsyncIterator[bytes]:
        stream = self._request.stream()
        stop = asyncio.create_task(self._limits.draining.wait())
        try:
            while True:
                more = asyncio.ensure_future(anext(stream, None))
                await asyncio.wait(
                    {more, stop}, timeout=BODY_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if not more.done():
                    more.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await more
                    raise Interrupted if stop.done() else BodyTooSlow
                chunk = more.result()
                if chunk is None:
                    return
                if stop.done():
                    raise Interrupted
                yield chunk
        finally:
            stop.cancel()

    async def _room(self, line: Line) -> None:
        size = len(line.content or b"")
        while self._bytes and self._bytes + size > BYTES_IN_FLIGHT:
            self._eased.clear()
            await self._eased.wait()
        self._bytes += size

    async def _answer(self, line: Line) -> bytes:
        try:
            answer = await self._decide(line)
        except TiebreakError as error:
            return self._failed(line.number, error)
        finally:
            self._bytes -= len(line.content or b"")
            self._eased.set()
        told = {"line": line.number, "status": 200, "decision": answer}
        return orjson.dumps(told, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)

    def _failed(self, number: int, error: TiebreakError) -> bytes:
        request_id: str = self._request.scope["state"]["request_id"]
        told = {"line": number, "status": status_of(error), "error": document(error, request_id)}
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
