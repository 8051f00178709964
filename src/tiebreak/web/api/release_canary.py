"""Canaries: what they decide and what their guards find; start, step, hold and stop them."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.release import canary
from tiebreak.release.releases import Office, Release, get
from tiebreak.web.answering import answered, described
from tiebreak.web.api.release_requests import READING, REFUSALS, RELEASE, id_of, read
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.release_shapes import CanaryMove, CanaryShare, Stop
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
    hours_left: float = Field(description="That the step lacks; 0: none.")
    tickets_left: int = Field(description="That the step lacks; 0: none.")
    guards: list[CanaryGuard]


@router.get(
    "/{release_id}/canary",
    name="get_release_canary",
    summary="Read what a canary's guards find",
    responses=described(CanaryStatus, *READING),
)
async def get_release_canary(request: Request, release_id: str = RELEASE) -> Response:
    """Share, step and guards of a canary."""
    office = site_of(request).office
    return await _told(office, await get(office.db, id_of(release_id)))


@router.post(
    "/{release_id}/canary/start",
    name="start_canary",
    summary="Start a canary",
    responses=described(CanaryStatus, *REFUSALS),
)
async def start_canary(request: Request, release_id: str = RELEASE) -> Response:
    """Let a release that was approved for it decide its first share; its approver is another."""
    office, wanted = site_of(request).office, await read(request, CanaryShare)
    actor = actor_of(request).person
    moved = await canary.start(office, id_of(release_id), actor=actor, percent=wanted.percent)
    return await _told(office, moved)


@router.post(
    "/{release_id}/canary/step",
    name="step_canary",
    summary="Step a canary",
    responses=described(CanaryStatus, *REFUSALS),
)
async def step_canary(request: Request, release_id: str = RELEASE) -> Response:
    """Let a canary decide the next share when its step is over; a held one goes on."""
    office, wanted = site_of(request).office, await read(request, CanaryMove)
    moved = await canary.step(
        office,
        id_of(release_id),
        actor=actor_of(request).person,
        percent=wanted.percent,
        early=wanted.early,
    )
    return await _told(office, moved)


@router.post(
    "/{release_id}/canary/hold",
    name="hold_canary",
    summary="Hold a canary",
    responses=described(CanaryStatus, *REFUSALS),
)
async def hold_canary(request: Request, release_id: str = RELEASE) -> Response:
    """Let a canary keep its share until somebody steps it; its guards go on watching."""
    office, wanted = site_of(request).office, await read(request, Stop)
    actor = actor_of(request).person
    moved = await canary.hold(office, id_of(release_id), actor=actor, reason=wanted.reason)
    return await _told(office, moved)


@router.post(
    "/{release_id}/canary/stop",
    name="stop_canary",
    summary="Stop a canary",
    responses=described(CanaryStatus, *REFUSALS),
)
async def stop_canary(request: Request, release_id: str = RELEASE) -> Response:
    """Take a canary's share: production decides everything within a second."""
    office, wanted = site_of(request).office, await read(request, Stop)
    actor = actor_of(request).person
    moved = await canary.stop(office, id_of(release_id), actor=actor, reason=wanted.reason)
    return await _told(office, moved)


async def _told(office: Office, release: Release) -> Response:
    told = await canary.status(office, release)
    return answered(
        {
            "release_id": str(release.release_id),
            "workflow": release.workflow,
            "policy_hash": release.policy_hash,
            "state": release.state.value,
            "percent": told.percent,
            "step_since": told.step.since,
            "tickets": told.step.tickets,
            "hours_left": told.step.hours_left,
            "tickets_left": told.step.tickets_left,
            "guards": [guard.as_data() for guard in told.guards],
        }
    )
