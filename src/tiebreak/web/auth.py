"""Who may use which route, by `ACCESS`; a route that is not in it cannot be built."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tiebreak.access.acts import ACCESS, check_roles
from tiebreak.access.roles import Actor, Role
from tiebreak.errors import InvalidInput, Problem
from tiebreak.web.headers import header, headers_of
from tiebreak.web.problems import RouteNotFound, known, problem_response
from tiebreak.web.site import site_of

CLIENT_GONE = 499  # only in logs and metrics: nobody is there to read an answer

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route that only the roles in `ACCESS` may use; KeyError when it is not in there."""

    def get_route_handler(self) -> Handler:
        """The route's handler behind the check of key and roles."""
        return _guarded(self.name, super().get_route_handler())


class LeanRoute(APIRoute):
    """A guarded route whose endpoint gets the bare request and its path's parameters.

    FastAPI describes it, and neither parses its input nor builds its answer.
    """

    def get_route_handler(self) -> Handler:
        """The endpoint behind the check of key and roles."""
        endpoint: Callable[..., Coroutine[Any, Any, Response]] = self.endpoint

        def handle(request: Request) -> Coroutine[Any, Any, Response]:
            return endpoint(request, **request.path_params)

        return _guarded(self.name, handle)


def actor_of(request: Request) -> Actor:
    """Who makes this request; only for routes that are not public."""
    return request.scope["state"]["actor"]


def check_actor(roles: frozenset[Role], actor: Actor) -> None:
    """Raises `WrongRole` when the actor has none of these roles."""
    check_roles(roles, actor.roles, hint="Use a key with such a role.")


def _guarded(name: str, handle: Handler) -> Handler:
    roles = ACCESS[name]

    async def guarded(request: Request) -> Response:
        state = request.scope["state"]
        state["route"] = name
        try:
            if roles:
                await _admit(request, roles)
            if "\0" in request.scope["path"]:
                # no stored name holds what Postgres does not take
                raise RouteNotFound
            return await handle(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        except RequestValidationError as error:
            return problem_response(_parameters(error), state["request_id"])
        except Exception as error:  # noqa: BLE001 - every failure becomes a problem document
            return problem_response(known(error, state["request_id"]), state["request_id"])

    return guarded


async def _admit(request: Request, roles: frozenset[Role]) -> None:
    state = request.scope["state"]
    actor = await site_of(request).keys.actor(header(headers_of(request), b"authorization"))
    state["key_id"] = actor.key_id
    check_actor(roles, actor)
    state["actor"] = actor


def _parameters(error: RequestValidationError) -> InvalidInput:
    return InvalidInput(
        "Parameters of the request are not valid.",
        problems=tuple(
            Problem(".".join(str(part) for part in item["loc"]), item["type"], item["msg"])
            for item in error.errors()
        ),
    )
