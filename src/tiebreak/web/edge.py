"""The outermost layer: request ids, the access log, metrics, and the last word on failures."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiebreak.web.auth import CLIENT_GONE
from tiebreak.web.metrics import Metrics
from tiebreak.web.problems import known, problem_response

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLOSE = (b"connection", b"close")

log = structlog.get_logger("tiebreak.web")


class Edge:
    """Wraps the application: every request gets an id, a log line and, whatever fails, an answer.

    The id goes back in `X-Request-ID`. Handlers leave what may be logged in `scope["state"]`:
    `route`, `key_id`, `decision_id`. While the worker drains, each answer asks the client to
    send its next request on another connection.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, draining: asyncio.Event) -> None:
        self._app = app
        self._metrics = metrics
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = secrets.token_hex(8)
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
            self._record(state, scope["method"], status, time.perf_counter() - started)

    def _record(self, state: dict[str, Any], method: str, status: int, seconds: float) -> None:
        route = state.get("route", "unmatched")
        self._metrics.served(route, status, seconds)
        log.info(
            "request",
            request_id=state["request_id"],
            route=route,
            method=method if method in METHODS else "other",
            status=status,
            milliseconds=round(seconds * 1000, 2),
            key_id=state.get("key_id"),
            decision_id=state.get("decision_id"),
        )


class _Broken(Exception):
    """An answer broke off; the failure itself is logged."""
