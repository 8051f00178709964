"""What is in production, and the ways back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.access.acts import APPROVERS, check_roles
from tiebreak.registry import records
from tiebreak.release.demotion import countersign, demote
from tiebreak.release.overview import overview
from tiebreak.release.promotion import rollback
from tiebreak.web.answering import answered, described
from tiebreak.web.api.release_requests import REFUSALS, office_for, read
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.headers import header, headers_of
from tiebreak.web.problems import Unauthenticated
from tiebreak.web.release_shapes import (
    Countersignature,
    Countersigned,
    DemotionRequest,
    Done,
    ReleaseOverview,
    Rollback,
)
from tiebreak.web.site import site_of

WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])
APPROVAL_HEADER = "X-Approval"
APPROVAL: dict[str, Any] = {
    "parameters": [
        {
            "name": APPROVAL_HEADER,
            "in": "header",
            "required": True,
            "description": "`Bearer tbk_…`: the API key of the approver, another person.",
            "schema": {"type": "string"},
        }
    ]
}

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])


@router.get(
    "/production",
    name="get_production",
    summary="Read what is in production",
    responses=described(ReleaseOverview, 401, 403, 500, 503),
)
async def get_production(request: Request) -> Response:
    """What is in production, the open candidates, and demotions that await a signature."""
    site = site_of(request)
    return answered((await overview(site.db, site.keyring)).as_data())


@router.post(
    "/production/{workflow}/rollback",
    name="rollback_production",
    summary="Roll back",
    responses=described(Done, *REFUSALS),
    openapi_extra=APPROVAL,
)
async def rollback_production(request: Request, workflow: str = WORKFLOW) -> Response:
    """Put an earlier policy back into production, by two persons.

    The second one's key, which has the role `approver`, stands in the header `X-Approval`.
    """
    site, wanted = site_of(request), await read(request, Rollback)
    approver = await _approver(request)
    record = await rollback(
        office_for(site, is_rehearsal=wanted.dry_run),
        workflow,
        wanted.policy_hash,
        seq=wanted.seq or await records.seq_now(site.db, workflow),
        author=actor_of(request).person,
        approver=approver,
        reason=wanted.reason,
    )
    return answered({**asdict(record), "dry_run": wanted.dry_run})


@router.post(
    "/production/{workflow}/demote",
    name="demote_production",
    summary="Demote at once",
    responses=described(Done, *REFUSALS),
)
async def demote_production(request: Request, workflow: str = WORKFLOW) -> Response:
    """Take the policy in production out of it; in force in every worker within a second.

    One person may do it alone; another one countersigns it within 24 hours.
    """
    site, wanted = site_of(request), await read(request, DemotionRequest)
    record = await demote(
        office_for(site, is_rehearsal=wanted.dry_run),
        workflow,
        wanted.to,
        seq=wanted.seq or await records.seq_now(site.db, workflow),
        author=actor_of(request).person,
        reason=wanted.reason,
    )
    return answered({**asdict(record), "dry_run": wanted.dry_run})


@router.post(
    "/production/{workflow}/countersign",
    name="countersign_demotion",
    summary="Countersign a demotion",
    responses=described(Countersigned, *REFUSALS),
)
async def countersign_demotion(request: Request, workflow: str = WORKFLOW) -> Response:
    """Sign another person's demotion."""
    wanted = await read(request, Countersignature)
    await countersign(
        office_for(site_of(request), is_rehearsal=wanted.dry_run),
        workflow,
        wanted.seq,
        signer=actor_of(request).person,
        note=wanted.note,
    )
    return answered({"workflow": workflow, "seq": wanted.seq, "dry_run": wanted.dry_run})


async def _approver(request: Request) -> str:
    """The person who approves this request beside the one who makes it."""
    given = header(headers_of(request), APPROVAL_HEADER.lower().encode())
    try:
        actor = await site_of(request).keys.actor(given)
    except Unauthenticated:
        raise Unauthenticated(
            f"A second person's API key is needed in the header {APPROVAL_HEADER}.",
            hint=f"Send `{APPROVAL_HEADER}: Bearer tbk_…` with the key of an approver.",
        ) from None
    check_roles(APPROVERS, actor.roles, hint=f"{APPROVAL_HEADER}: the key of an approver.")
    return actor.person
