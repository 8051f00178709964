"""Evaluating: the gates before a stage asked, and their answer kept with all it depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tiebreak.backtest.evidence import Evidence
from tiebreak.errors import Conflict, InvalidInput
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.release import evaluations
from tiebreak.release.evaluations import Evaluation
from tiebreak.release.gate_results import Gathered, Result, passed
from tiebreak.release.gates import judge
from tiebreak.release.gathering import gather, hash_of
from tiebreak.release.plans import InForce, in_force
from tiebreak.release.releases import Office, Release, get
from tiebreak.release.states import Kind, Stage, State, after
from tiebreak.store.reading import newest_as_of


class GatesBlock(Conflict):
    """Not every gate passes."""

    code = "gates_block"


class MomentToCome(InvalidInput):
    """What will be known by a moment to come is not known now."""

    code = "moment_to_come"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What the gates said of a release, and by what was known by which moment.

    `evaluation` is None where it cannot be kept, because the candidate is in quarantine or
    production moved; then it never passes.
    """

    release: Release
    stage: Stage
    results: Sequence[Result]
    evaluation: Evaluation | None
    told: dict[str, Any]

    @property
    def is_passed(self) -> bool:
        """Whether the release may be approved for the stage."""
        return self.evaluation is not None and self.evaluation.is_passed

    @property
    def known_by(self) -> datetime:
        """The moment by whose knowledge the gates were asked."""
        return datetime.fromisoformat(self.told["known_by"])

    def as_data(self) -> dict[str, Any]:
        """The evaluation as plain data."""
        kept = self.evaluation
        return {
            "release_id": str(self.release.release_id),
            "workflow": self.release.workflow,
            "policy_hash": self.release.policy_hash,
            "production_seq": self.release.base_seq,
            "stage": self.stage.value,
            "is_passed": self.is_passed,
            "is_of_the_past": None if kept is None else kept.is_of_the_past,
            "evaluation_id": None if kept is None else str(kept.evaluation_id),
            "evaluated_at": None if kept is None else kept.evaluated_at.isoformat(),
            **self.told,
        }


async def evaluate(
    office: Office,
    evidence: Evidence,
    release_id: UUID,
    stage: Stage | None,
    *,
    actor: str,
    known_by: datetime | None = None,
) -> Evaluated:
    """Ask every gate of the workflow and keep the answer, by what was known by a moment.

    An answer by what was known at a moment that is long past is kept and told, but nobody may
    approve it (`evaluations.check_timely`).

    Without a stage it is the canary where the workflow asks for one and it has not been.
    Raises `NoSuchRelease`, `MomentToCome`, and `NotInThisState` unless the release is in shadow or
    later.
    """
    now = datetime.now(UTC)
    moment = known_by or now
    if moment > now:
        raise MomentToCome(known_by=moment.isoformat())
    release = await get(office.db, release_id)
    if release.state is not State.QUARANTINED:
        after(release.state, Kind.GATED)
    plan = await in_force(office, release)
    is_canary = plan.plan.canary == "required" and release.state is not State.READY
    stage = stage or (Stage.CANARY if is_canary else Stage.PROMOTION)
    gathered = await gather(office, evidence, release, stage, plan.plan, known_by=moment)
    # In a thread, because whoever asks may be serving meanwhile.
    results = await asyncio.to_thread(judge, gathered)
    told = await asyncio.to_thread(_told, release, gathered, plan, results, moment)
    clock = await newest_as_of(office.db, release.workflow)
    told["clock"] = None if clock is None else clock.isoformat()
    is_kept = release.state is not State.QUARANTINED
    is_kept = is_kept and gathered.production_seq == release.base_seq
    kept = None
    if is_kept:
        kept = await evaluations.record(
            office, release, stage, is_passed=passed(results), results=told, actor=actor
        )
    return Evaluated(release, stage, results, kept, told)


def _told(
    release: Release,
    gathered: Gathered,
    plan: InForce,
    results: Sequence[Result],
    known_by: datetime,
) -> dict[str, Any]:
    """All that is needed to check the answer later."""
    candidate, production = gathered.candidate, gathered.production
    return {
        "gates": [result.as_data() for result in results],
        "plan": plan.plan.model_dump(mode="json"),
        "plan_of": plan.workflow_version,
        "known_by": known_by.isoformat(),
        "seed": gathered.seed,
        "fingerprint": engine_fingerprint().hash,
        "evidence": {
            "tickets": gathered.scored.count,
            "shadow": hash_of(gathered.scored),
            "backtest": release.backtest_id,
            "bundle_digest": candidate.parts.bundle_digest,
            "production": None if production is None else production.hash,
        },
    }
