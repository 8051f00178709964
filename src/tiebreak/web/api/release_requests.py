"""What requests about releases have in common."""

from __future__ import annotations

import uuid
from typing import TypeVar
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel
from starlette.requests import Request

from tiebreak.release.releases import NoSuchRelease
from tiebreak.web.bodies import read_model
from tiebreak.web.release_shapes import ID
from tiebreak.web.site import site_of

M = TypeVar("M", bound=BaseModel)

RELEASE = Path(
    description="The release's id, a UUID.",
    examples=[ID],
    pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
)
READING = (401, 403, 404, 500, 503)
REFUSALS = (400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503)


def id_of(release_id: str) -> UUID:
    """The id in an address. Raises `NoSuchRelease`."""
    try:
        return uuid.UUID(release_id)
    except ValueError:
        raise NoSuchRelease(hint="GET /v1/releases lists them.", release=release_id) from None


async def read(request: Request, model: type[M]) -> M:
    """The body as this model. Raises what `read_model` raises."""
    return await read_model(request, model, site_of(request).settings.api.max_body_bytes)
