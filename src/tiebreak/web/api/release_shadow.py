"""Candidates in shadow: how far they have scored; let them begin and end."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.release import shadow
from tiebreak.release.releases import Release, get
from tiebreak.store.database import Database
from tiebreak.web.answering import answered, described
from tiebreak.web.api.release_requests import READING, REFUSALS, RELEASE, id_of, read
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.release_shapes import ShadowStart, Stop
from tiebreak.web.shapes import Shape
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])


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
    responses=described(ShadowStatus, *READING),
)
async def get_release_shadow(request: Request, release_id: str = RELEASE) -> Response:
    """How far a candidate in shadow has scored, how fast, and what went wrong."""
    db = site_of(request).db
    return await _told(db, await get(db, id_of(release_id)))


@router.post(
    "/{release_id}/shadow/start",
    name="start_shadow",
    summary="Let a candidate score",
    responses=described(ShadowStatus, *REFUSALS),
)
async def start_shadow(request: Request, release_id: str = RELEASE) -> Response:
    """Let a candidate score tickets: from now on, from where it was stopped, or from `since` on."""
    site, wanted = site_of(request), await read(request, ShadowStart)
    started = await shadow.start(
        site.office,
        id_of(release_id),
        actor=actor_of(request).person,
        share=wanted.share,
        since=wanted.since,
    )
    return await _told(site.db, started)


@router.post(
    "/{release_id}/shadow/stop",
    name="stop_shadow",
    summary="Let a candidate score no more",
    responses=described(ShadowStatus, *REFUSALS),
)
async def stop_shadow(request: Request, release_id: str = RELEASE) -> Response:
    """Let a candidate score no more; its scores stay, and it may be started again."""
    site, wanted = site_of(request), await read(request, Stop)
    stopped = await shadow.stop(
        site.office, id_of(release_id), actor=actor_of(request).person, reason=wanted.reason
    )
    return await _told(site.db, stopped)


async def _told(db: Database, release: Release) -> Response:
    told = await shadow.status(db, release)
    return answered(
        {
            "release_id": str(release.release_id),
            "workflow": release.workflow,
            "policy_hash": release.policy_hash,
            "state": release.state.value,
            "share": told.share,
            "through": told.through,
            "scored": told.scored,
            "lag_seconds": told.lag_seconds,
            "tickets_per_second": told.tickets_per_second,
            "seconds_per_ticket": told.seconds_per_ticket,
            "error": told.error,
        }
    )
