"""HTTP on one connection: uvicorn's protocol, and a direct way beside it for the busiest route."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from tiebreak.web.bodies import WHOLE
from tiebreak.web.edge import CLOSE
from tiebreak.web.exchange import Exchange, Pair
from tiebreak.web.headers import first_of
from tiebreak.web.idle import Idle
from tiebreak.web.passing import Passing
from tiebreak.web.site import Site

PATH = re.compile(rb"/v1/workflows/([A-Za-z0-9_.~-]+)/decisions")
PATIENCE_SECONDS = 0.05  # many clients send head and body apart


@dataclass(slots=True)
class Held:
    """A request to decide a ticket, of which the body is not whole yet."""

    workflow: str
    body: list[bytes] = field(default_factory=list[bytes])
    patience: asyncio.TimerHandle | None = None


class Protocol(HttpToolsProtocol):
    """Writes an answer at once, and answers requests to decide a ticket without ASGI.

    Such a request is held until its body is whole, for a moment at most. Then it is an
    `Exchange`, unless anything about it is unusual; from a pipeline, over what the connection
    takes at once, with a key that is not known for now: then it goes on as if it had never been
    held, as do all others.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        passing: Passing | None = None,
        is_passed: bool = False,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._passing = passing
        self._is_passed = is_passed
        self._is_receiving = False  # a request, or a part of one
        self._held: Held | None = None
        self._idle = Idle(self.loop, self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_made(  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn has it
        self, transport: asyncio.Transport
    ) -> None:
        """Serve a connection that is new, or new to this worker."""
        super().connection_made(transport)
        self.transport = self._joined = Joined(transport, self.loop)
        if self._is_passed:
            self._idle.begin()

    def data_received(self, data: bytes) -> None:
        """Read what has come; a request that is held may wait for a little more."""
        super().data_received(data)
        held = self._held
        if held is None or held.patience is not None:
            return
        length = first_of(self.headers).get(b"content-length", b"")
        if length.isdigit() and int(length) <= HIGH_WATER_LIMIT:
            held.patience = self.loop.call_later(PATIENCE_SECONDS, self._release)
        else:
            self._release()

    def on_message_begin(self) -> None:
        """Take the head of a request; what ASGI needs besides waits until it is needed."""
        self._is_receiving = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Hold a request that may be answered directly."""
        workflow = self._workflow()
        if workflow is None:
            self._general()
        else:
            self._held = Held(workflow)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held.body.append(body)

    def on_message_complete(self) -> None:
        """Answer a request directly, or note that its last byte has come."""
        self._is_receiving = False
        if self._held is not None and self._begin(self._held):
            return
        self._release()
        super().on_message_complete()
        self.scope.setdefault("state", {})[WHOLE] = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Let whoever waits know that the client has gone."""
        self._release()
        super().connection_lost(exc)
        self._idle.stop()

    def on_response_complete(self) -> None:
        """Go on to the next request of the pipeline, or wait for one to come."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle.begin()
            self._pass_on()

    def shutdown(self) -> None:
        """End the connection after the answer that is under way."""
        self._release()
        super().shutdown()

    def _pass_on(self) -> None:
        """Let another worker have the connection, if it shall and nothing has come on it yet."""
        if self._passing is None or self._is_receiving:
            return
        if self._joined.pass_on(self._passing):
            self.server_state.connections.discard(self)

    def _unset_keepalive_if_required(self) -> None:
        self._idle.over()

    def _workflow(self) -> str | None:
        """The workflow that this request asks to decide a ticket; None for any other request."""
        found, parser = PATH.fullmatch(self.url), self.parser
        if found is None or parser is None or parser.get_method() != b"POST":
            return None
        if parser.get_http_version() != "1.1" or parser.should_upgrade():
            return None
        if self.expect_100_continue or self.flow.write_paused or self._is_answering():
            return None
        return found[1].decode()

    def _is_answering(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def _release(self) -> None:
        """Let the request that is held, if one is, go on as if it had never been."""
        held, self._held = self._held, None
        if held is None:
            return
        if held.patience is not None:
            held.patience.cancel()
        self._general()
        for piece in held.body:
            super().on_body(piece)

    def _general(self) -> None:
        """Let ASGI have the request from its head on."""
        url, headers, is_asking = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, is_asking
        self.headers += headers
        super().on_headers_complete()

    def _begin(self, held: Held) -> bool:
        """Answer the request, which is whole, directly; False when it goes the general way."""
        assert self.parser is not None
        site: Site = self.app_state["site"]
        exchange = Exchange(
            site,
            self._reply,
            keep_alive=self.parser.should_keep_alive(),
            away_seconds=self._idle.lasted_seconds,
        )
        if not exchange.begin(held.workflow, first_of(self.headers), b"".join(held.body)):
            return False
        if held.patience is not None:
            held.patience.cancel()
        self._held = None
        self.cycle = cast("RequestResponseCycle", exchange)
        return True

    def _reply(self, exchange: Exchange, status: int, headers: Sequence[Pair], body: bytes) -> None:
        """Write an answer in one piece, and go on to the next request."""
        if exchange.disconnected:
            return
        parts = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            parts += (name, b": ", value, b"\r\n")
        is_last = CLOSE in headers
        if not (is_last or exchange.keep_alive):
            is_last = True
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", body)
        self._joined.send(b"".join(parts))
        exchange.response_complete = True
        if is_last:
            self.transport.close()
        self.on_response_complete()


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
            self.send(data)
        else:
            self._held = bytes(data)
            self._loop.call_soon(self._flush)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send this at once, with the piece before it."""
        held, self._held = self._held, b""
        if not self._transport.is_closing():
            self._transport.write(held + data)

    def close(self) -> None:
        """Close when all is sent."""
        self._flush()
        self._transport.close()

    def pass_on(self, passing: Passing) -> bool:
        """Whether another worker has the connection from now on; then it has ended here."""
        is_passed = not self._held and passing.pass_on(self._transport)
        if is_passed:
            self._transport.abort()
        return is_passed

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            self.send(b"")
