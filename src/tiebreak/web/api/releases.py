"""Releases: a changed policy's way into production."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.backtest.orders import Orders
from tiebreak.release import drafts, releases
from tiebreak.release.approvals import approvals_of, approve
from tiebreak.release.evaluations import newest
from tiebreak.release.events import ACTIONS, events_of
from tiebreak.release.overview import overview
from tiebreak.release.promotion import promote
from tiebreak.release.releases import Filters
from tiebreak.release.states import Stage, State
from tiebreak.store import journal
from tiebreak.web.answering import answered, described
from tiebreak.web.api.audit import entries_page
from tiebreak.web.api.release_gates import evaluation_told
from tiebreak.web.api.release_requests import READING, REFUSALS, RELEASE, id_of, office_for, read
from tiebreak.web.auth import GuardedRoute, LeanRoute, actor_of
from tiebreak.web.cursors import read_cursor, write_cursor
from tiebreak.web.release_shapes import (
    NO_NUL,
    ApprovalRequest,
    Done,
    GivenApproval,
    Promotion,
    Proposal,
    Release,
    ReleaseDetail,
    ReleasePage,
    Withdrawal,
    Withdrawn,
)
from tiebreak.web.shapes import AuditPage
from tiebreak.web.site import Site, site_of

lists = APIRouter(prefix="/v1/releases", route_class=GuardedRoute, tags=["releases"])
router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])


class Asked(BaseModel):
    """What a list of releases is narrowed to, and which page of it."""

    model_config = ConfigDict(extra="forbid")

    workflow: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Only of this workflow."
    )
    state: State | None = Field(None, description="Only in this state.")
    author: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Only by this person."
    )
    cursor: str | None = Field(None, max_length=100, description="`next_cursor` of a page.")
    limit: int = Field(50, ge=1, le=500, description="Most releases of a page.")


class AskedHistory(BaseModel):
    """What the history of releases is narrowed to, and which page of it."""

    model_config = ConfigDict(extra="forbid")

    workflow: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Only of this workflow."
    )
    cursor: str | None = Field(None, max_length=100, description="`next_cursor` of a page.")
    limit: int = Field(50, ge=1, le=500, description="Most entries of a page.")

    def filters(self) -> journal.Filters:
        """The same for the store."""
        subject = None if self.workflow is None else f"{self.workflow}/"
        return journal.Filters(actions=ACTIONS, subject=subject)


@lists.get(
    "",
    name="list_releases",
    summary="List releases",
    response_class=Response,
    responses=described(ReleasePage, 401, 403, 422, 500, 503),
)
async def list_releases(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """Releases of all workflows or of one, newest first."""
    rows = await releases.page(
        site_of(request).db,
        Filters(asked.workflow, asked.state, asked.author),
        after=read_cursor(asked.cursor) if asked.cursor else None,
        limit=asked.limit + 1,
    )
    page, has_more = rows[: asked.limit], len(rows) > asked.limit
    last = (page[-1].created_at, page[-1].release_id) if has_more else None
    told = {
        "releases": [asdict(release) for release in page],
        "next_cursor": write_cursor(last) if last else None,
    }
    return answered(told)


@lists.get(
    "/history",
    name="list_release_history",
    summary="List what was done to releases",
    response_class=Response,
    responses=described(AuditPage, 401, 403, 422, 500, 503),
)
async def list_release_history(
    request: Request, asked: Annotated[AskedHistory, Query()]
) -> Response:
    """Who did what to releases and to what is in production, newest first."""
    rows = await journal.entries(
        site_of(request).db,
        asked.filters(),
        after=read_cursor(asked.cursor) if asked.cursor else None,
        limit=asked.limit + 1,
    )
    return answered(entries_page(rows, asked.limit))


@router.get(
    "/{release_id}",
    name="get_release",
    summary="Read a release",
    responses=described(ReleaseDetail, *READING),
)
async def get_release(request: Request, release_id: str = RELEASE) -> Response:
    """A release with its approvals, what its gates said, and its events, oldest first."""
    return answered(await _detail(site_of(request), id_of(release_id)))


@router.post(
    "",
    name="propose_release",
    summary="Propose a release",
    responses=described(Release, *REFUSALS),
)
async def propose_release(request: Request) -> Response:
    """Propose a policy that was backtested against what is in production.

    What is new of its versions is stored with the release.
    """
    site, wanted = site_of(request), await read(request, Proposal)
    made = await _backtest(site, wanted.backtest)
    draft = await drafts.draft_of_backtest(site.office, Orders.of(site.settings), made)
    await drafts.check_history(site.office, draft)
    author = actor_of(request).person
    release = await releases.propose(
        site.office, draft.recipe, made, author=author, reason=wanted.reason
    )
    return answered(asdict(release))


@router.post(
    "/{release_id}/rebase",
    name="rebase_release",
    summary="Propose a release anew",
    responses=described(Release, *REFUSALS),
)
async def rebase_release(request: Request, release_id: str = RELEASE) -> Response:
    """Propose the policy of a release anew, because production moved; the old one is voided."""
    site, wanted = site_of(request), await read(request, Proposal)
    made = await _backtest(site, wanted.backtest)
    author = actor_of(request).person
    release = await releases.rebase(
        site.office, id_of(release_id), made, author=author, reason=wanted.reason
    )
    return answered(asdict(release))


@router.post(
    "/{release_id}/withdraw",
    name="withdraw_release",
    summary="Take a release back",
    responses=described(Withdrawn, *REFUSALS),
)
async def withdraw_release(request: Request, release_id: str = RELEASE) -> Response:
    """Take a release back for good; its canary decides no more."""
    site, wanted = site_of(request), await read(request, Withdrawal)
    release = await releases.withdraw(
        office_for(site, is_rehearsal=wanted.dry_run),
        id_of(release_id),
        actor=actor_of(request).person,
        reason=wanted.reason,
    )
    return answered({**asdict(release), "dry_run": wanted.dry_run})


@router.post(
    "/{release_id}/approve",
    name="approve_release",
    summary="Approve a release",
    responses=described(GivenApproval, *REFUSALS),
)
async def approve_release(request: Request, release_id: str = RELEASE) -> Response:
    """Approve what the gates said last of a release that somebody else proposed."""
    wanted = await read(request, ApprovalRequest)
    given = await approve(
        office_for(site_of(request), is_rehearsal=wanted.dry_run),
        id_of(release_id),
        wanted.stage,
        approver=actor_of(request).person,
        note=wanted.note,
        lifetime=None if wanted.hours is None else timedelta(hours=wanted.hours),
    )
    return answered({**asdict(given), "dry_run": wanted.dry_run})


@router.post(
    "/{release_id}/promote",
    name="promote_release",
    summary="Promote a release",
    responses=described(Done, *REFUSALS),
)
async def promote_release(request: Request, release_id: str = RELEASE) -> Response:
    """Put a release into production by the approval of another person."""
    wanted = await read(request, Promotion)
    record = await promote(
        office_for(site_of(request), is_rehearsal=wanted.dry_run),
        id_of(release_id),
        author=actor_of(request).person,
        reason=wanted.reason,
    )
    return answered({**asdict(record), "dry_run": wanted.dry_run})


async def _backtest(site: Site, start: str) -> Backtest:
    return await asyncio.to_thread(Evidence.of(site.settings).get, start)


async def _detail(site: Site, release_id: UUID) -> dict[str, Any]:
    release = await releases.get(site.db, release_id)
    now = await overview(site.db, site.keyring)
    asked = [await newest(site.db, release_id, stage) for stage in Stage]
    return {
        **asdict(release),
        "percent": now.share(release),
        "is_current": now.is_current(release),
        "approvals": [asdict(each) for each in await approvals_of(site.db, release_id)],
        "evaluations": {
            each.stage.value: evaluation_told(each) for each in asked if each is not None
        },
        "events": [asdict(each) for each in await events_of(site.db, release_id)],
    }
