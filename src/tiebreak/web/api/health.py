"""Whether the server lives, is ready, and how much it does."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from fastapi import APIRouter
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.errors import Problem, TiebreakError
from tiebreak.release.demotion import Demotion, late_signature, overdue
from tiebreak.store.database import is_connection_failure
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import LeanRoute
from tiebreak.web.metrics import CONTENT_TYPE
from tiebreak.web.shapes import Liveness, Readiness
from tiebreak.web.site import Site, site_of

DATABASE_SECONDS = 2.0
QUEUE_SECONDS = 0.5

router = APIRouter(route_class=LeanRoute, tags=["operations"])


@router.get("/livez", name="livez", summary="Is the process alive", responses=described(Liveness))
async def livez(request: Request) -> Response:  # noqa: ARG001 - every lean endpoint takes it
    """Answers as long as the process serves requests, whatever else is wrong."""
    return answered({"status": "alive"})


@router.get(
    "/readyz",
    name="readyz",
    summary="Are tickets decided, and what is wrong",
    responses={
        **described(Readiness),
        503: {
            "description": "No ticket can be decided now.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Readiness"}}},
        },
    },
)
async def readyz(request: Request) -> Response:
    """Every problem at once; 200 when tickets are decided, if only by rules, else 503.

    Warnings are about people's work that is overdue; they make nothing unready.
    """
    site = site_of(request)
    database, queue, warnings = await asyncio.gather(
        _database_problem(site), _queue_problem(site), _warnings(site)
    )
    # From here on nothing waits, so that status and problems are of one moment.
    known = site.service.problems()
    blocking = [] if database is None else [database]
    if site.draining.is_set():
        blocking.append(Problem("worker", "draining", "This worker is shutting down."))
    is_ready = site.service.is_ready and not blocking
    codes = {item.code for item in known}
    problems = known + [item for item in blocking if item.code not in codes]
    if queue is not None:
        problems.append(queue)
    status = "not_ready" if not is_ready else "degraded" if problems else "ready"
    told = {
        "status": status,
        "problems": [item.as_dict() for item in problems],
        "warnings": [item.as_dict() for item in warnings],
    }
    return answered(told, 200 if is_ready else 503)


@router.get(
    "/metrics",
    name="metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
async def metrics(request: Request) -> Response:
    """Counters and histograms of all workers together, in Prometheus' text format."""
    site = site_of(request)
    late = await _overdue(site)
    if late is not None:
        site.metrics.countersignatures_overdue.set(len(late))
    return Response(site.metrics.exposition(), media_type=CONTENT_TYPE)


async def _database_problem(site: Site) -> Problem | None:
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            await site.db.check()
    except TiebreakError as error:
        return Problem("database", error.code, error.message, error.hint)
    except TimeoutError:
        text = f"The database did not answer within {DATABASE_SECONDS:g} seconds."
        return Problem("database", "database_slow", text)
    return None


async def _warnings(site: Site) -> list[Problem]:
    """What is overdue; nothing while the database does not say."""
    return [late_signature(demotion) for demotion in await _overdue(site) or ()]


async def _overdue(site: Site) -> list[Demotion] | None:
    """The demotions whose second signature is late; None while the database does not say."""
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            return await overdue(site.db, now=datetime.now(UTC))
    except (TiebreakError, TimeoutError):
        return None
    except Exception as error:
        if is_connection_failure(error):
            return None
        raise


async def _queue_problem(site: Site) -> Problem | None:
    """What is wrong with the task queue; tickets are decided without it."""
    if site.queue is None:
        return None
    try:
        async with asyncio.timeout(QUEUE_SECONDS):
            await site.queue.ping()  # pyright: ignore[reportUnknownMemberType]
    except (RedisError, OSError, TimeoutError):
        text = "The task queue does not answer; slow work waits, tickets are decided."
        return Problem("queue", "queue_unavailable", text, "Look at Redis or Valkey.")
    return None
