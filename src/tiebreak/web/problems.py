"""Errors on the wire: one table from error to status, and RFC 9457 problem documents.

A problem's `code` is stable and for machines; `detail` and `hint` are for people. What a caller
sends is never echoed into a log by this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from starlette.responses import Response

from tiebreak.errors import (
    Conflict,
    IntegrityFailure,
    InvalidInput,
    NotAllowed,
    NotFound,
    Problem,
    TiebreakError,
    Unavailable,
)
from tiebreak.store.database import is_connection_failure, unavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1
UNREADABLE = frozenset({"invalid_utf8", "not_json", "lone_surrogate", "too_deep"})

log = structlog.get_logger("tiebreak.web")


class MalformedBody(InvalidInput):
    """The body is not what its content type says."""

    code = "body_malformed"


class BodyTooLarge(InvalidInput):
    """The body is larger than this server accepts."""

    code = "body_too_large"


class BodyTooSlow(InvalidInput):
    """The body did not arrive in time."""

    code = "body_too_slow"


class WrongContentType(InvalidInput):
    """The body's content type is not one that this route takes."""

    code = "content_type_wrong"


class WrongMethod(InvalidInput):
    """This route does not take that method."""

    code = "method_wrong"


class Unauthenticated(NotAllowed):
    """A valid API key is needed."""

    code = "unauthenticated"


class RouteNotFound(NotFound):
    """There is nothing at this path."""

    code = "route_not_found"

    def __init__(self) -> None:
        super().__init__(hint="/docs lists all routes.")


class TimedOut(Unavailable):
    """The decision was not ready in time; sending the same ticket again is safe."""

    code = "decision_timeout"


class Failure(TiebreakError):
    """The server failed; the failure is logged under the request's id."""

    code = "server_failure"


STATUS: Mapping[type[TiebreakError], int] = {
    MalformedBody: 400,
    Unauthenticated: 401,
    NotAllowed: 403,
    NotFound: 404,
    WrongMethod: 405,
    BodyTooSlow: 408,
    Conflict: 409,
    BodyTooLarge: 413,
    WrongContentType: 415,
    InvalidInput: 422,
    TiebreakError: 500,
    IntegrityFailure: 500,
    Unavailable: 503,
}

TITLES: Mapping[int, str] = {
    400: "The request is malformed",
    401: "A valid API key is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Wrong method",
    408: "The request took too long to arrive",
    409: "Conflict",
    413: "The body is too large",
    415: "Wrong content type",
    422: "The input is not valid",
    500: "The server failed",
    503: "Not available now",
}


def status_of(error: TiebreakError) -> int:
    """The HTTP status of an error: that of its nearest class in the table."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def document(error: TiebreakError, request_id: str) -> dict[str, Any]:
    """The error as an RFC 9457 problem document."""
    status = status_of(error)
    problem: dict[str, Any] = {
        "type": f"urn:tiebreak:problem:{error.code}",
        "title": TITLES[status],
        "status": status,
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
        "problems": [item.as_dict() for item in error.problems],
        "request_id": request_id,
    }
    if error.fields:
        problem["fields"] = dict(error.fields)
    return problem


def problem_response(error: TiebreakError, request_id: str) -> Response:
    """The error as an HTTP answer, with the headers that its status asks for."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tiebreak"'
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body will not be read
    body = orjson.dumps(document(error, request_id))
    return Response(body, status, headers, media_type=MEDIA_TYPE)


def refused(problems: tuple[Problem, ...]) -> InvalidInput:
    """The error for an input with these problems: malformed where it could not even be read."""
    if any(problem.code in UNREADABLE for problem in problems):
        return MalformedBody(problems=problems)
    return InvalidInput(problems=problems)


def known(error: Exception, request_id: str) -> TiebreakError:
    """The error as one of the families; what nobody expected is logged and told as Failure."""
    if isinstance(error, TiebreakError):
        return error
    if is_connection_failure(error):
        return unavailable(error, hint="Send it again after a second.")
    log.error("failure", request_id=request_id, exc_info=error)
    return Failure(hint="Send it again later; if it fails again, tell the operators the id.")
