"""What the gates said of a release."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.release import evaluations, releases
from tiebreak.release.evaluations import Evaluation
from tiebreak.release.releases import NoSuchRelease
from tiebreak.release.states import Stage
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import LeanRoute
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])

RELEASE = Path(
    description="The release's id, a UUID.",
    examples=["5f0c2f5e-6f0d-4c55-9a53-0d0b6d3a3c11"],
    pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
)


class GateEvaluation(BaseModel):
    """What the gates before a stage said last, and what it depends on."""

    evaluation_id: str
    stage: str = Field(description="canary or promotion.")
    policy_hash: str
    production_seq: int = Field(description="Number of the production record it is bound to.")
    evaluated_at: datetime
    is_passed: bool
    results: dict[str, Any] = Field(
        description="`gates` with verdict, figure, limit and a sentence each; limits in force, "
        "seed, moment of knowledge and hashes of the evidence."
    )


class GateEvaluations(BaseModel):
    """What the gates said of a release; null before they were asked."""

    release_id: str
    canary: GateEvaluation | None
    promotion: GateEvaluation | None


@router.get(
    "/{release_id}/gates",
    name="get_release_gates",
    summary="Read what the gates said",
    responses=described(GateEvaluations, 401, 403, 404, 500, 503),
)
async def get_release_gates(request: Request, release_id: str = RELEASE) -> Response:
    """The newest evaluation of each stage; `tiebreak release gates` makes a new one."""
    site = site_of(request)
    try:
        release = await releases.get(site.db, uuid.UUID(release_id))
    except ValueError:
        raise NoSuchRelease(hint="It is a UUID.", release=release_id) from None
    told: dict[str, Any] = {"release_id": str(release.release_id)}
    for stage in Stage:
        told[stage.value] = _told(await evaluations.newest(site.db, release.release_id, stage))
    return answered(told)


def _told(found: Evaluation | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "evaluation_id": str(found.evaluation_id),
        "stage": found.stage.value,
        "policy_hash": found.policy_hash,
        "production_seq": found.production_seq,
        "evaluated_at": found.evaluated_at,
        "is_passed": found.is_passed,
        "results": found.results,
    }
