"""The outermost layer: request ids, what is told of a request, and the last word on failures."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiebreak.web.auth import CLIENT_GONE
from tiebreak.web.problems import known, problem_response
from tiebreak.web.tally import Served, Tally

CLOSE = (b"connection", b"close")


class Edge:
    """Wraps the application: every request gets an id, a log line and, whatever fails, an answer.

    The id goes back in `X-Request-ID`. Handlers leave what may be logged in `scope["state"]`:
    `route`, `key_id`, `decision_id`. While the worker drains, each answer asks the client to
    send its next request on another connection.
    """

    def __init__(self, app: ASGIApp, tally: Tally, draining: asyncio.Event) -> None:
        self._app = app
        self._tally = tally
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = self._tally.next_id()
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
            self._tally.add(_served(state, scope["method"], status, seconds))


def _served(state: dict[str, Any], method: str, status: int, seconds: float) -> Served:
    route = state.get("route", "unmatched")
    ids = state.get("key_id"), state.get("decision_id")
    return Served(state["request_id"], route, method, status, seconds, *ids)


class _Broken(Exception):
    """An answer broke off; the failure itself is logged."""
