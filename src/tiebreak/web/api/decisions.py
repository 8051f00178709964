"""Deciding: one ticket, and many."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.core.tickets import Schema, Submission, parse_submission
from tiebreak.core.tickets import read_submission as read_row
from tiebreak.decisions.batcher import Overloaded
from tiebreak.ingest.foreign import stream_foreign
from tiebreak.ingest.rows import Kind, Row
from tiebreak.web import batches
from tiebreak.web.answering import answered, described, problem_answers
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.batches import BatchResponse, Entry
from tiebreak.web.bodies import (
    JSON,
    LINES,
    TABLES,
    Line,
    check_content_type,
    read_body,
    read_chunks,
    read_lines,
    spooled,
    too_large,
)
from tiebreak.web.deadlines import Awaited
from tiebreak.web.headers import headers_of
from tiebreak.web.problems import refused
from tiebreak.web.shapes import Decision
from tiebreak.web.site import Site, site_of

PAUSE_SECONDS = (0.02, 0.1)
PARQUET_BYTES = 256 << 20  # of one body, which waits in a file

router = APIRouter(prefix="/v1/workflows/{workflow}", route_class=LeanRoute, tags=["decisions"])

WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])


@router.post(
    "/decisions",
    name="decide_ticket",
    summary="Decide one ticket",
    responses=described(Decision, 400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def decide_ticket(request: Request, workflow: str = WORKFLOW) -> Response:
    """Decide one ticket; the answer comes once the decision is durable.

    Content equal to the ticket's latest revision gets that revision's decision again, so a retry
    is safe. Other content becomes the next revision.
    """
    site = site_of(request)
    schema = site.service.schema(workflow)
    check_content_type(headers_of(request), JSON)
    body = await read_body(request, site.settings.api.max_body_bytes)
    answer = await _decide(site, workflow, read_submission(schema, body), str(actor_of(request)))
    request.scope["state"]["decision_id"] = answer["decision_id"]
    return answered(answer)


@router.post(
    "/decisions:batch",
    name="decide_batch",
    summary="Decide many tickets",
    response_class=Response,
    responses={
        200: {
            "description": "A `BatchLine` for each line.",
            "content": {batches.MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
        **problem_answers(401, 403, 404, 408, 413, 415, 500, 503),
    },
)
async def decide_batch(request: Request, workflow: str = WORKFLOW) -> Response:
    """Decide many tickets: one a line or row in, one line of JSON out, in the same order.

    NDJSON, CSV and Arrow streams are answered while they are still read; Parquet is taken whole
    first. An error of one line is that line's answer and does not sink the rest. `line` counts
    lines of NDJSON, where blank ones are not answered, and rows of tables without their header.
    A table that cannot be read any further ends with an error at the next row. A line cut off by
    a broken connection is not decided; every line answered with 200 is durable.
    """
    site = site_of(request)
    site.service.schema(workflow)
    kind = check_content_type(headers_of(request), (*LINES, *TABLES))
    batch = _Batch(site, workflow, str(actor_of(request)))
    chunks = read_chunks(request, site.draining)
    if kind in LINES:
        return BatchResponse(request, batch.lines(chunks), batch.count)
    if site.readers.locked():
        raise Overloaded("Other tables are being read.", hint="Send it again when they are done.")
    with ExitStack() as held:
        await site.readers.acquire()
        held.callback(site.readers.release)
        table, body = TABLES[kind], chunks
        if table is Kind.PARQUET:
            body = held.enter_context(await spooled(chunks, PARQUET_BYTES))
        return BatchResponse(request, batch.rows(table, body), batch.count, held.pop_all())


@dataclass(frozen=True, slots=True)
class _Batch:
    """One request of many tickets."""

    site: Site
    workflow: str
    actor: str

    async def lines(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[Entry]:
        """The lines of an NDJSON body."""
        async for line in read_lines(chunks, self._limit):
            size = len(line.content or b"")
            yield Entry(line.number, size, partial(self._submit, partial(self._of_line, line)))

    async def rows(
        self, kind: Kind, body: BinaryIO | AsyncIterator[bytes]
    ) -> AsyncGenerator[Entry]:
        """The rows of a table."""
        async with aclosing(stream_foreign(kind, body, "The body")) as found:
            async for row, size in found:
                read = partial(self._of_row, row, size)
                yield Entry(row.number, size, partial(self._submit, read))

    def count(self, status: int) -> None:
        """Count a line that is answered with this status."""
        self.site.metrics.line(self.workflow, status)

    @property
    def _limit(self) -> int:
        return self.site.settings.api.max_body_bytes

    def _of_line(self, line: Line) -> Submission:
        if line.content is None:
            raise too_large(self._limit)
        return read_submission(self.site.service.schema(self.workflow), line.content)

    def _of_row(self, row: Row, size: int) -> Submission:
        if size > self._limit:
            raise too_large(self._limit)
        if row.problems:
            raise refused(row.problems)
        service = self.site.service
        ticket_id = service.policy(self.workflow).workflow.ticket_id
        found = read_row(service.schema(self.workflow), row.cells, ticket_id)
        if isinstance(found, tuple):
            raise refused(found)
        return found

    async def _submit(self, read: Callable[[], Submission]) -> Awaited:
        """Let the ticket be decided when there is a place for it: single tickets go first."""
        submission = read()
        await self.site.bulk.acquire()
        try:
            answer = await self._patiently(submission)
        except BaseException:
            self.site.bulk.release()
            raise
        answer.add_done_callback(self._done)
        return answer

    async def _patiently(self, submission: Submission) -> Awaited:
        deadline = time.monotonic() + self.site.settings.api.decide_timeout_seconds
        while True:
            try:
                return submit(self.site, self.workflow, submission, self.actor)
            except Overloaded:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - spreads the tries

    def _done(self, answer: Awaited) -> None:
        self.site.bulk.release()
        count(self.site, answer)


def read_submission(schema: Schema, body: bytes) -> Submission:
    """The submission in a body. Raises MalformedBody or InvalidInput with every problem."""
    submission = parse_submission(schema, body)
    if isinstance(submission, tuple):
        raise refused(submission)
    return submission


def submit(
    site: Site, workflow: str, submission: Submission, actor: str, away_seconds: float = 0.0
) -> Awaited:
    """Let the ticket be decided within the time for it; once it is, `count` its answer."""
    try:
        answer = site.service.submit(workflow, submission, actor, away_seconds)
    except Overloaded:
        site.metrics.queued(site.service.waiting)
        raise
    site.deadlines.add(answer)
    return answer


def count(site: Site, answer: Awaited) -> None:
    """Count the answer, which is there or no longer waited for."""
    site.deadlines.met(answer)
    site.metrics.queued(site.service.waiting)
    if not answer.cancelled() and answer.exception() is None:
        site.metrics.decided(answer.result())


async def _decide(site: Site, workflow: str, submission: Submission, actor: str) -> dict[str, Any]:
    answer = submit(site, workflow, submission, actor)
    try:
        return await answer
    finally:
        count(site, answer)
