"""Deciding: one ticket, and many."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.core.tickets import Schema, Submission, parse_submission
from tiebreak.decisions.batcher import Overloaded
from tiebreak.web import batches
from tiebreak.web.answering import answered, described, problem_answers
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.batches import BatchResponse, Limits
from tiebreak.web.bodies import JSON, LINES, Line, check_content_type, read_body, too_large
from tiebreak.web.problems import TimedOut, known, refused, status_of
from tiebreak.web.shapes import Decision
from tiebreak.web.site import Site, site_of

PAUSE_SECONDS = (0.02, 0.1)

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
    check_content_type(request, JSON)
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
        **problem_answers(401, 403, 404, 415, 500, 503),
    },
)
async def decide_batch(request: Request, workflow: str = WORKFLOW) -> Response:
    """Decide many tickets, one JSON object a line in, one a line out, in the same order.

    Answers come while lines are still read. An error of one line is that line's answer and does
    not sink the rest. Blank lines are counted and not answered. A line cut off by a broken
    connection is not decided; every line answered with 200 is durable.
    """
    site = site_of(request)
    schema = site.service.schema(workflow)
    check_content_type(request, LINES)
    actor, request_id = str(actor_of(request)), request.scope["state"]["request_id"]
    limit = site.settings.api.max_body_bytes

    async def decide(line: Line) -> dict[str, Any]:
        try:
            if line.content is None:
                raise too_large(limit)
            submission = read_submission(schema, line.content)
            answer = await _decide_patiently(site, workflow, submission, actor)
        except Exception as error:
            problem = known(error, request_id)
            site.metrics.batch_lines.labels(workflow, str(status_of(problem))).inc()
            raise problem from error
        site.metrics.batch_lines.labels(workflow, "200").inc()
        return answer

    return BatchResponse(request, decide, Limits(limit, site.draining))


def read_submission(schema: Schema, body: bytes) -> Submission:
    """The submission in a body. Raises MalformedBody or InvalidInput with every problem."""
    submission = parse_submission(schema, body)
    if isinstance(submission, tuple):
        raise refused(submission)
    return submission


async def _decide(site: Site, workflow: str, submission: Submission, actor: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(site.settings.api.decide_timeout_seconds):
            answer = await site.service.decide(workflow, submission, actor)
    except TimeoutError:
        raise TimedOut(hint="Send the same ticket again.") from None
    finally:
        site.metrics.waiting.set(site.service.waiting)
    site.metrics.decided(answer)
    return answer


async def _decide_patiently(
    site: Site, workflow: str, submission: Submission, actor: str
) -> dict[str, Any]:
    """Decide a line of a batch: while the queue is full it waits, and single tickets go first."""
    deadline = time.monotonic() + site.settings.api.decide_timeout_seconds
    while True:
        try:
            return await _decide(site, workflow, submission, actor)
        except Overloaded:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - spreads the tries
