"""The outermost layer: request ids, the access log, metrics, and the last word on failures."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiebreak.web import logs
from tiebreak.web.auth import CLIENT_GONE
from tiebreak.web.metrics import Metrics
from tiebreak.web.problems import known, problem_response

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSE = (b"connection", b"close")
IDS_AT_ONCE = 512


class Served(NamedTuple):
    """A request that was answered."""

    state: dict[str, Any]
    method: str
    status: int
    seconds: float

    @property
    def route(self) -> str:
        """The name of its route."""
        return self.state.get("route", "unmatched")

    def line(self) -> dict[str, Any]:
        """What is logged of it."""
        return {
            "request_id": self.state["request_id"],
            "route": self.route,
            "method": self.method if self.method in METHODS else "other",
            "status": self.status,
            "milliseconds": round(self.seconds * 1000, 2),
            "key_id": self.state.get("key_id"),
            "decision_id": self.state.get("decision_id"),
        }


class Edge:
    """Wraps the application: every request gets an id, a log line and, whatever fails, an answer.

    The id goes back in `X-Request-ID`. Handlers leave what may be logged in `scope["state"]`:
    `route`, `key_id`, `decision_id`. While the worker drains, each answer asks the client to
    send its next request on another connection. What was answered in one turn of the event loop is
    counted and logged at its end, which is cheaper than one by one.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, draining: asyncio.Event) -> None:
        self._app = app
        self._metrics = metrics
        self._draining = draining
        self._ids = _random_ids()
        self._served: list[Served] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = next(self._ids)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        header = (b"x-request-id", request_id.encode())
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                last = [CLOSE] if self._draining.is_set() else []
                message["headers"] = [*message["headers"], header, *last]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            status = status or CLIENT_GONE
            raise
        except Exception as error:  # noqa: BLE001 - the last word on failures
            problem = known(error, request_id)
            if status:  # too late for another: an incomplete body tells the client
                raise _Broken from None
            await problem_response(problem, request_id)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            self._record(Served(state, scope["method"], status, seconds))

    def _record(self, served: Served) -> None:
        if not self._served:
            asyncio.get_running_loop().call_soon(self._tell)
        self._served.append(served)

    def _tell(self) -> None:
        """Count and log the requests of a turn of the event loop."""
        served, self._served = self._served, []
        for each in served:
            self._metrics.served(each.route, each.status, each.seconds)
        logs.log_all("request", (each.line() for each in served))


def _random_ids() -> Iterator[str]:
    """Random texts of 16 hexadecimal digits; the kernel is asked for many at once."""
    while True:
        digits = os.urandom(8 * IDS_AT_ONCE).hex()
        for start in range(0, len(digits), 16):
            yield digits[start : start + 16]


class _Broken(Exception):
    """An answer broke off; the failure itself is logged."""
