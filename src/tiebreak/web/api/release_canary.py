"""What a canary decides, and what its guards find."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.release import canary
from tiebreak.release.releases import Office
from tiebreak.web.answering import answered, described
from tiebreak.web.api.release_shadow import RELEASE, release_of
from tiebreak.web.auth import LeanRoute
from tiebreak.web.shapes import Shape
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])


class CanaryGuard(Shape):
    """A rate of the canary beside production's in the same time."""

    name: str
    canary: float | None = Field(description="Rate; null when there is nothing to count.")
    production: float | None
    canary_count: int
    production_count: int
    e_value: float = Field(description="Evidence of harm, valid however often it is read.")
    limit: float = Field(description="Evidence at which the canary is rolled back.")
    is_harm: bool


class CanaryStatus(Shape):
    """Where a canary stands."""

    release_id: str
    workflow: str
    policy_hash: str
    state: str
    percent: int = Field(description="Share of the tickets that it decides.")
    step_since: datetime | None
    tickets: int = Field(description="Decided by it in this step.")
    guards: list[CanaryGuard]


@router.get(
    "/{release_id}/canary",
    name="get_release_canary",
    summary="Read what a canary's guards find",
    responses=described(CanaryStatus, 401, 403, 404, 500, 503),
)
async def get_release_canary(request: Request, release_id: str = RELEASE) -> Response:
    """Share, step and guards of a canary; `tiebreak release canary` starts, steps and stops it."""
    site = site_of(request)
    office = Office(site.db, site.outcomes_lane, site.keyring, site.service.library)
    found = await release_of(site.db, release_id)
    told = await canary.status(office, found, await canary.plan_of(office, found))
    return answered(
        {
            "release_id": str(told.release.release_id),
            "workflow": told.release.workflow,
            "policy_hash": told.release.policy_hash,
            "state": told.release.state.value,
            "percent": told.percent,
            "step_since": told.step_since,
            "tickets": told.tickets,
            "guards": [guard.as_data() for guard in told.guards],
        }
    )
