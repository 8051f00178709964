"""A wire between the programs and PostgreSQL that a test can cut at a chosen place.

It takes the place of the server's Unix socket, so the programs need not know of it: whoever
connects while it stands there is passed on, and cut off by its rule.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Rule = Literal["copy", "answer", "anywhere"]
COPY_BYTES, BYTES, REQUESTS = 40_000, 60_000, 30  # at most so far before a cut
ANSWER_SECONDS = 0.2  # for the server to do what it was asked before its answer is lost
PIECE_BYTES = 4096


@dataclass
class _Framer:
    """Follows the messages in one direction of PostgreSQL's protocol."""

    has_startup: bool
    _left: bytes = b""
    _skip: int = 0

    def kinds(self, data: bytes) -> str:
        """The kinds of the messages that begin in these bytes; the first of a client has none."""
        found, at = "", 0
        data, self._left = self._left + data, b""
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            head = 4 if self.has_startup else 5
            if len(data) - at < head:
                self._left = data[at:]
                break
            (size,) = struct.unpack_from("!I", data, at + head - 4)
            found += "" if self.has_startup else chr(data[at])
            self.has_startup = False
            at += head
            self._skip = size - 4
        return found


class Link:
    """One connection that goes through the wire."""

    def __init__(self, rule: Rule, chance: random.Random) -> None:
        self.rule = rule
        self._asked, self._told = _Framer(has_startup=True), _Framer(has_startup=False)
        self._budget = chance.randrange(BYTES)
        self._copy_budget = chance.randrange(COPY_BYTES)
        self._requests = chance.randrange(1, REQUESTS)
        self._is_copying = False
        self.is_deaf = False  # the server's answers are lost

    def asked(self, data: bytes) -> int:
        """How many of the client's bytes go on; fewer than there are: then it is cut."""
        requests = sum(kind in "QS" for kind in self._asked.kinds(data))
        if self.rule == "copy" and self._is_copying:
            self._copy_budget -= len(data)
            return len(data) + min(self._copy_budget, 0)
        if self.rule == "answer":
            self._requests -= requests
            self.is_deaf = self._requests <= 0
        return self._whole(data)

    def told(self, data: bytes) -> int:
        """How many of the server's bytes go on; fewer than there are: then it is cut."""
        for kind in self._told.kinds(data):
            if kind in "GCE":  # COPY begins; a statement is done, or failed
                self._is_copying = kind == "G"
        return 0 if self.is_deaf else self._whole(data)

    def _whole(self, data: bytes) -> int:
        if self.rule == "anywhere":
            self._budget -= len(data)
            return len(data) + min(self._budget, 0)
        return len(data)


class Wire:
    """Stands in a folder of sockets between `put_in` and `take_out`."""

    def __init__(self, rule: Rule) -> None:
        self._rule: Rule = rule
        self.cuts: Counter[str] = Counter()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def put_in(self, sockets: Path, port: int, chance: random.Random) -> None:
        """From now on, whoever connects goes through."""
        self._place = sockets / f".s.PGSQL.{port}"
        self._real = sockets / f".wire.{port}"
        self._chance = chance
        self._place.rename(self._real)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._place))
        self._place.chmod(0o777)
        self._inode = self._place.stat().st_ino
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(listener), self._loop).result()

    def take_out(self) -> None:
        """Give the server its socket back, and cut what goes through."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        is_new = self._place.exists() and self._place.stat().st_ino != self._inode
        if is_new:  # of a server that was started meanwhile
            self._real.unlink(missing_ok=True)
        else:
            self._real.rename(self._place)

    async def _listen(self, listener: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._pass, sock=listener)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self._rule, self._chance)
        try:
            there = await asyncio.open_unix_connection(str(self._real))
        except OSError:
            writer.transport.abort()
            return
        both = [
            asyncio.create_task(self._pump(reader, there[1], link, is_client=True)),
            asyncio.create_task(self._pump(there[0], writer, link, is_client=False)),
        ]
        try:
            with suppress(asyncio.CancelledError):  # by `_close`
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            writer.transport.abort()
            there[1].transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: Link,
        *,
        is_client: bool,
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE_BYTES):
                count = link.asked(data) if is_client else link.told(data)
                writer.write(data[:count])
                await writer.drain()
                if count < len(data):
                    self.cuts[link.rule] += 1
                    return
                if is_client and link.is_deaf:
                    await asyncio.sleep(ANSWER_SECONDS)
                    self.cuts[link.rule] += 1
                    return
