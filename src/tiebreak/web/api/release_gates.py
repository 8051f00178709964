"""The gates before a release's canary or promotion: ask them, and read what they said."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.backtest.evidence import Evidence
from tiebreak.release import evaluations, releases
from tiebreak.release.evaluating import evaluate
from tiebreak.release.evaluations import Evaluation
from tiebreak.release.states import Stage
from tiebreak.web.answering import answered, described
from tiebreak.web.api.release_requests import READING, REFUSALS, RELEASE, id_of, read
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.release_shapes import GateQuestion
from tiebreak.web.shapes import Shape
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])


class GateFigures(Shape):
    """What the gates before a stage said, and what it depends on."""

    stage: Stage
    policy_hash: str
    production_seq: int = Field(description="Number of the production record it is bound to.")
    is_passed: bool
    known_by: datetime = Field(description="They were asked by what was known then.")
    results: dict[str, Any] = Field(
        description="`gates` with verdict, figure, limit and a sentence each; limits in force, "
        "seed, moment of knowledge and hashes of the evidence."
    )


class GateEvaluation(GateFigures):
    """What the gates before a stage said last, and what it depends on."""

    evaluation_id: str
    evaluated_at: datetime


class GateAnswer(GateFigures):
    """What the gates say now, and what it depends on."""

    release_id: str
    evaluation_id: str | None = Field(
        description="Null: it was not kept, because the candidate is in quarantine or production "
        "moved; then it never passes."
    )
    evaluated_at: datetime | None


class GateEvaluations(Shape):
    """What the gates said of a release; null before they were asked."""

    release_id: str
    canary: GateEvaluation | None
    promotion: GateEvaluation | None


@router.get(
    "/{release_id}/gates",
    name="get_release_gates",
    summary="Read what the gates said",
    responses=described(GateEvaluations, *READING),
)
async def get_release_gates(request: Request, release_id: str = RELEASE) -> Response:
    """The newest evaluation of each stage."""
    site = site_of(request)
    release = await releases.get(site.db, id_of(release_id))
    told: dict[str, Any] = {"release_id": str(release.release_id)}
    for stage in Stage:
        told[stage.value] = _told(await evaluations.newest(site.db, release.release_id, stage))
    return answered(told)


@router.post(
    "/{release_id}/gates",
    name="evaluate_gates",
    summary="Ask the gates",
    responses=described(GateAnswer, *REFUSALS),
)
async def evaluate_gates(request: Request, release_id: str = RELEASE) -> Response:
    """Ask every gate before a release's canary or promotion, and keep the answer.

    It takes seconds. Only what passes, with another person's approval, lets the release go on.
    """
    site, wanted = site_of(request), await read(request, GateQuestion)
    found = await evaluate(
        site.office,
        Evidence.of(site.settings),
        id_of(release_id),
        wanted.stage,
        actor=actor_of(request).person,
    )
    kept = found.evaluation
    return answered(
        {
            "release_id": str(found.release.release_id),
            "evaluation_id": None if kept is None else str(kept.evaluation_id),
            "stage": found.stage.value,
            "policy_hash": found.release.policy_hash,
            "production_seq": found.release.base_seq,
            "evaluated_at": None if kept is None else kept.evaluated_at,
            "is_passed": found.is_passed,
            "known_by": found.known_by,
            "results": found.told,
        }
    )


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
        "known_by": found.known_by,
        "results": found.results,
    }
