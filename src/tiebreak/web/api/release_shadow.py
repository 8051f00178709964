"""How far candidates have scored in shadow."""

from __future__ import annotations

import uuid
from datetime import datetime

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.release import shadow
from tiebreak.release.releases import NoSuchRelease, Release, get
from tiebreak.store.database import Database
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import LeanRoute
from tiebreak.web.shapes import Shape
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])

RELEASE = Path(
    description="The release's id, a UUID.",
    examples=["5f0c2f5e-6f0d-4c55-9a53-0d0b6d3a3c11"],
    pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
)


class Quarantine(Shape):
    """Why a candidate was taken out."""

    cause: str = Field(description="Such as hung, died, failed, too_slow or not_finite.")
    message: str


class ShadowStatus(Shape):
    """How far a candidate has scored, how fast, and what went wrong."""

    release_id: str
    workflow: str
    policy_hash: str
    state: str
    share: float | None = Field(description="Of the tickets; null when it never began.")
    through: datetime | None = Field(description="All tickets up to this `as_of` are scored.")
    scored: int
    lag_seconds: float | None = Field(description="Age of the oldest ticket that waits.")
    tickets_per_second: float | None = Field(description="In the last minute.")
    seconds_per_ticket: float | None = Field(description="Spent deciding.")
    error: Quarantine | None


@router.get(
    "/{release_id}/shadow",
    name="get_release_shadow",
    summary="Read how far a candidate has scored",
    responses=described(ShadowStatus, 401, 403, 404, 500, 503),
)
async def get_release_shadow(request: Request, release_id: str = RELEASE) -> Response:
    """How far a candidate in shadow has scored; `tiebreak release shadow` starts and stops it."""
    db = site_of(request).db
    told = await shadow.status(db, await release_of(db, release_id))
    return answered(
        {
            "release_id": str(told.release.release_id),
            "workflow": told.release.workflow,
            "policy_hash": told.release.policy_hash,
            "state": told.release.state.value,
            "share": told.share,
            "through": told.through,
            "scored": told.scored,
            "lag_seconds": told.lag_seconds,
            "tickets_per_second": told.tickets_per_second,
            "seconds_per_ticket": told.seconds_per_ticket,
            "error": told.error,
        }
    )


async def release_of(db: Database, release_id: str) -> Release:
    """The release of a path. Raises `NoSuchRelease`."""
    try:
        return await get(db, uuid.UUID(release_id))
    except ValueError:
        raise NoSuchRelease(hint="It is a UUID.", release=release_id) from None
