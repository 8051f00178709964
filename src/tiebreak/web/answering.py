"""Answers: JSON as bytes, and what the description says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel
from starlette.responses import Response

from tiebreak.web.problems import MEDIA_TYPE, TITLES

PROBLEM = "#/components/schemas/ProblemDocument"
Responses = dict[int | str, dict[str, Any]]


def answered(content: Mapping[str, Any], status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encoded(content), status, media_type="application/json")


def encoded(content: Mapping[str, Any]) -> bytes:
    """The content as JSON; datetimes are written in UTC with Z."""
    return orjson.dumps(content, _plain, orjson.OPT_UTC_Z)


def _plain(value: object) -> str:
    """The database driver's UUID, a class of its own, as text."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


def described(model: type[BaseModel], *problems: int, status: int = 200) -> Responses:
    """What a route answers, for the description: the model, and these problem statuses."""
    responses: Responses = {status: {"model": model, "description": _sentence(model)}}
    return responses | problem_answers(*problems)


def problem_answers(*statuses: int) -> Responses:
    """Problem documents of these statuses, for the description."""
    return {
        status: {
            "description": TITLES[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": PROBLEM}}},
        }
        for status in statuses
    }


def _sentence(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]
