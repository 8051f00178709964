"""Releases: a changed policy's way into production, and the ways back."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.release import releases
from tiebreak.release.approvals import approvals_of
from tiebreak.release.events import events_of
from tiebreak.release.overview import overview
from tiebreak.release.releases import Filters, NoSuchRelease
from tiebreak.release.states import State
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import GuardedRoute, LeanRoute
from tiebreak.web.cursors import read_cursor, write_cursor
from tiebreak.web.release_shapes import ID, ReleaseDetail, ReleasePage
from tiebreak.web.site import Site, site_of

NO_NUL = r"^[^\x00]*$"  # Postgres takes none in a text
RELEASE = Path(
    description="The release's id, a UUID.",
    examples=[ID],
    pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
)

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


@router.get(
    "/{release_id}",
    name="get_release",
    summary="Read a release",
    responses=described(ReleaseDetail, 401, 403, 404, 500, 503),
)
async def get_release(request: Request, release_id: str = RELEASE) -> Response:
    """A release with its approvals and everything that happened to it, oldest first."""
    return answered(await _detail(site_of(request), id_of(release_id)))


def id_of(release_id: str) -> UUID:
    """The id in an address. Raises `NoSuchRelease`."""
    try:
        return uuid.UUID(release_id)
    except ValueError:
        raise NoSuchRelease(hint="GET /v1/releases lists them.", release=release_id) from None


async def _detail(site: Site, release_id: UUID) -> dict[str, Any]:
    release = await releases.get(site.db, release_id)
    now = await overview(site.db, site.keyring)
    return {
        **asdict(release),
        "percent": now.share(release),
        "is_current": now.is_current(release),
        "approvals": [asdict(each) for each in await approvals_of(site.db, release_id)],
        "events": [asdict(each) for each in await events_of(site.db, release_id)],
    }
