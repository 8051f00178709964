"""What requests about releases have in common."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from fastapi import Path
from pydantic import BaseModel
from starlette.requests import Request

from tiebreak.audit.lanes import Lane
from tiebreak.release.releases import NoSuchRelease, Office
from tiebreak.web.bodies import read_model
from tiebreak.web.release_shapes import ID
from tiebreak.web.site import Site, site_of

M = TypeVar("M", bound=BaseModel)

UUID_PATTERN = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
RELEASE = Path(description="The release's id, a UUID.", examples=[ID], pattern=UUID_PATTERN)
READING = (401, 403, 404, 500, 503)
REFUSALS = (400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503)


def id_of(release_id: str) -> UUID:
    """The id in an address. Raises `NoSuchRelease`."""
    try:
        return uuid.UUID(release_id)
    except ValueError:
        raise NoSuchRelease(hint="GET /v1/releases lists them.", release=release_id) from None


def office_for(site: Site, *, is_rehearsal: bool) -> Office:
    """Where releases are written; a rehearsal does everything and keeps nothing."""
    if not is_rehearsal:
        return site.office
    lane = Lane.rehearsal(site.db, "releases", site.keyring)
    return replace(site.office, lane=lane)


async def read(request: Request, model: type[M]) -> M:
    """The body as this model. Raises what `read_model` raises."""
    return await read_model(request, model, site_of(request).settings.api.max_body_bytes)
