"""One request to decide a ticket, answered without ASGI, and its answer.

The busiest route by far pays for what ASGI brings (a task, messages, a request and an answer as
objects, routing) more than for what it does itself. `web/protocol.py` says which requests come
here; all others, and the route's description, are the ASGI application's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from tiebreak.access.acts import ACCESS
from tiebreak.access.roles import Actor
from tiebreak.web.answering import encoded
from tiebreak.web.api.decisions import count, read_submission, submit
from tiebreak.web.auth import check_actor
from tiebreak.web.bodies import JSON, check_content_type, check_length, too_large
from tiebreak.web.deadlines import Awaited
from tiebreak.web.edge import CLOSE
from tiebreak.web.headers import Headers, header
from tiebreak.web.problems import known, problem_response
from tiebreak.web.site import Site
from tiebreak.web.tally import Served

ROUTE = "decide_ticket"
ROLES = ACCESS[ROUTE]
TYPE = (b"content-type", b"application/json")

Pair = tuple[bytes, bytes]
Reply = Callable[["Exchange", int, Sequence[Pair], bytes], None]


class Exchange:
    """A request that came whole; `reply` is given its answer, never before `begin` has returned.

    uvicorn sees it as it sees one of its cycles.
    """

    __slots__ = (
        "_away_seconds",
        "_key_id",
        "_reply",
        "_site",
        "_started",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    message_event = asyncio.Event()  # nobody waits for it

    def __init__(self, site: Site, reply: Reply, *, keep_alive: bool, away_seconds: float) -> None:
        self._site = site
        self._reply = reply
        self._away_seconds = away_seconds
        self._started = time.perf_counter()
        self._key_id: str | None = None
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False

    def begin(self, workflow: str, headers: Headers, body: bytes) -> bool:
        """Let the ticket in the body be decided; False when the key has to be looked up first."""
        try:
            actor = self._site.keys.actor_now(header(headers, b"authorization"))
            if actor is None:
                return False
            answer = self._submit(workflow, actor, headers, body)
        except Exception as error:  # noqa: BLE001 - every failure becomes a problem document
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(error)
        answer.add_done_callback(self._answer)
        return True

    def _submit(self, workflow: str, actor: Actor, headers: Headers, body: bytes) -> Awaited:
        self._key_id = actor.key_id
        check_actor(ROLES, actor)
        site = self._site
        schema, max_bytes = site.service.schema(workflow), site.settings.api.max_body_bytes
        check_content_type(headers, JSON)
        check_length(headers, max_bytes)
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        submission = read_submission(schema, body)
        return submit(site, workflow, submission, str(actor), self._away_seconds)

    def _answer(self, answer: Awaited) -> None:
        """Reply with the decision, or with what kept it from being made."""
        site, decision_id = self._site, None
        request_id = site.tally.next_id()
        count(site, answer)
        try:
            told = answer.result()
            status, body = 200, encoded(told)
            headers = [(b"content-length", b"%d" % len(body)), TYPE]
            decision_id = told["decision_id"]
        except Exception as error:  # noqa: BLE001 - every failure becomes a problem document
            response = problem_response(known(error, request_id), request_id)
            status, headers, body = response.status_code, response.raw_headers, response.body
        headers.append((b"x-request-id", request_id.encode()))
        if site.draining.is_set():
            headers.append(CLOSE)
        self._reply(self, status, headers, bytes(body))
        seconds = time.perf_counter() - self._started
        site.tally.add(
            Served(request_id, ROUTE, "POST", status, seconds, self._key_id, decision_id)
        )
