"""A switch in the way to a server: off, every connection breaks and new ones are refused."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit


class Switch:
    """Passes connections on to a Postgres address; use it as a context manager."""

    def __init__(self, url: str, folder: Path) -> None:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        port = int(query["port"][0]) if "port" in query else parts.port or 5432
        host = query.get("host", [parts.hostname or ""])[0]
        self._target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        self._path = folder / f".s.PGSQL.{port}"
        login = parts.netloc.rpartition("@")[0]
        place = quote(str(folder), safe="")
        self.url = f"postgresql://{login}@{parts.path}?host={place}&port={port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Switch:
        self._thread.start()
        self.on()
        return self

    def __exit__(self, *_: object) -> None:
        self.off()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def on(self) -> None:
        """Take and pass on connections."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)

    def off(self) -> None:
        """Break every connection, refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)

    async def _start(self) -> None:
        self._server = await asyncio.start_unix_server(self._pass_on, self._path)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        for writer in list(self._open):
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(self._target, str):
            ours, theirs = await asyncio.open_unix_connection(self._target)
        else:
            ours, theirs = await asyncio.open_connection(*self._target)
        self._open |= {writer, theirs}
        try:
            await asyncio.gather(_copy(reader, theirs), _copy(ours, writer))
        finally:
            self._open -= {writer, theirs}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.transport.abort()
