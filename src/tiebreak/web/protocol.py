"""HTTP on one connection: uvicorn's protocol, told what spares work."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

WHOLE = "body_is_whole"  # in a request's state: its body has arrived, reading it does not wait


class Protocol(HttpToolsProtocol):
    """Writes head and body of an answer at once, and says when a request's body is whole."""

    def connection_made(  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn has it
        self, transport: asyncio.Transport
    ) -> None:
        """Serve a new connection."""
        super().connection_made(transport)
        self.transport = Joined(transport, self.loop)

    def on_message_complete(self) -> None:
        """Note that the last byte of a request has come."""
        super().on_message_complete()
        self.scope.setdefault("state", {})[WHOLE] = True


class Joined(asyncio.Transport):
    """A transport on which two pieces written in one turn of the event loop go out as one.

    uvicorn writes head and body of an answer apart, and uvloop sends each at once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send this with the piece before it, or with the next one, in this turn at the latest."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        else:
            self._held = bytes(data)
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Close when all is sent."""
        self._send()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def _send(self) -> None:
        if self._held and not self._transport.is_closing():
            held, self._held = self._held, b""
            self._transport.write(held)
