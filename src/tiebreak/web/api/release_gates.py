"""The gates before a release's canary or promotion: ask them, and read what they said."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
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
from tiebreak.web.release_shapes import GateAnswer, GateEvaluations, GateQuestion
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/releases", route_class=LeanRoute, tags=["releases"])


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
        found = await evaluations.newest(site.db, release.release_id, stage)
        told[stage.value] = None if found is None else evaluation_told(found)
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
        known_by=wanted.known_by,
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


def evaluation_told(found: Evaluation) -> dict[str, Any]:
    """What the gates said, as the API tells it."""
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
