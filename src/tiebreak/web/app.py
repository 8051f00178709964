"""The web application: routes, lifecycle, and errors that no route raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.routing import APIRoute
from redis.asyncio import Redis
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from tiebreak.audit.lanes import Lane
from tiebreak.decisions.service import DecisionService
from tiebreak.errors import TiebreakError
from tiebreak.release.releases import Office
from tiebreak.settings import Keyring, Settings
from tiebreak.web.api import (
    again,
    audit,
    decisions,
    describe,
    health,
    lookups,
    models,
    outcomes,
    release_backtests,
    release_canary,
    release_gates,
    release_production,
    release_shadow,
    releases,
    training,
    workflows,
)
from tiebreak.web.deadlines import Deadlines
from tiebreak.web.edge import Edge
from tiebreak.web.keycache import KeyCache
from tiebreak.web.metrics import Metrics
from tiebreak.web.problems import Failure, RouteNotFound, WrongMethod, problem_response
from tiebreak.web.site import Site
from tiebreak.web.tally import Tally

ROUTERS = (
    decisions.router,
    again.router,
    lookups.lists,
    lookups.router,
    outcomes.router,
    workflows.router,
    training.lists,
    training.router,
    models.router,
    releases.lists,
    release_backtests.lists,
    release_production.router,
    release_backtests.router,
    releases.router,
    release_gates.router,
    audit.router,
    release_shadow.router,
    release_canary.router,
    health.router,
    describe.router,
)


def create_app(
    settings: Settings,
    keyring: Keyring,
    metrics: Metrics | None = None,
    draining: asyncio.Event | None = None,
) -> Edge:
    """The application of one worker; it starts its decision service when the server starts it.

    `draining` is set by whoever shuts the server down, before connections are waited for.
    """
    metrics = metrics or Metrics()
    draining = draining or asyncio.Event()
    tally = Tally(metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[dict[str, Site]]:
        service = await DecisionService.start(settings, keyring)
        site = Site(
            settings=settings,
            keyring=keyring,
            service=service,
            keys=KeyCache(service.db),
            metrics=metrics,
            tally=tally,
            deadlines=Deadlines(settings.api.decide_timeout_seconds),
            outcomes_lane=await Lane.open(service.db, "outcomes", keyring),
            office=Office(
                service.db,
                await Lane.open(service.db, "releases", keyring),
                keyring,
                service.library,
            ),
            bulk=asyncio.Semaphore(max(1, settings.api.queue_size // 2)),
            queue=_queue(settings),
            draining=draining,
        )
        try:
            yield {"site": site}
        finally:
            await service.drain()
            if site.queue is not None:
                await site.queue.aclose()

    return Edge(build_app(lifespan), tally, draining)


def _queue(settings: Settings) -> Redis | None:
    """A client of the task queue; it connects when it is first used."""
    url = settings.redis.url
    if url is None:
        return None
    return Redis.from_url(url.get_secret_value())  # pyright: ignore[reportUnknownMemberType]


def build_app(lifespan: object = None) -> FastAPI:
    """The routes, without what serves them; enough to describe the API."""
    app = FastAPI(
        lifespan=lifespan,  # pyright: ignore[reportArgumentType]
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(HTTPException, _unrouted)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


async def _unrouted(request: Request, error: Exception) -> Response:
    """The answer to a request that no route takes."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    problem: TiebreakError = Failure()
    if status == 404:
        problem = RouteNotFound()
    elif status == 405:
        problem = WrongMethod(hint="/docs lists all routes and their methods.")
    response = problem_response(problem, request.scope["state"]["request_id"])
    if status == 405:
        response.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """The methods that this path takes, of all the routes that it fits."""
    fitting = (
        route
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    )
    return {method for route in fitting for method in route.methods or ()}
