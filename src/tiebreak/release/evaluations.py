"""Gate evaluations: what the gates said of a release, bound to its policy and to production.

They may be asked by what was known at an earlier moment. Who may choose any moment may look for
one at which all pass, so an evaluation counts only where it leaves out at most `MOST_LEFT_OUT` of
what the workflow's clock had come to. In a stream of the past that clock stands in the past too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import select

from tiebreak.errors import Conflict
from tiebreak.release.events import happen
from tiebreak.release.releases import Office, Release, check_current
from tiebreak.release.states import VOIDING, Kind, Stage
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit

MOST_LEFT_OUT: Final = timedelta(days=1)


class EvidenceOfThePast(Conflict):
    """The gates were asked by what was known at a moment that is long past for the workflow."""

    code = "evidence_of_the_past"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the gates before a stage said of a release."""

    evaluation_id: UUID
    release_id: UUID
    policy_hash: str
    production_seq: int
    stage: Stage
    evaluated_at: datetime
    is_passed: bool
    results: Mapping[str, Any]

    @property
    def known_by(self) -> datetime:
        """The moment by whose knowledge the gates were asked."""
        told = self.results.get("known_by")
        return self.evaluated_at if told is None else datetime.fromisoformat(told)

    @property
    def is_of_the_past(self) -> bool:
        """Whether it left out too much of what was known when the gates were asked."""
        clock = self.results.get("clock")
        newest = self.evaluated_at if clock is None else datetime.fromisoformat(clock)
        return self.known_by < min(newest, self.evaluated_at) - MOST_LEFT_OUT


def check_timely(evaluation: Evaluation) -> None:
    """Raises `EvidenceOfThePast` when it left out too much to count."""
    if evaluation.is_of_the_past:
        release_id, stage = evaluation.release_id, evaluation.stage
        raise EvidenceOfThePast(
            f"The gates were asked by what was known by {evaluation.known_by:%Y-%m-%d %H:%M} UTC, "
            "more than a day before the newest that the workflow was told.",
            hint=f"Ask them by what is known now: `tiebreak release gates {release_id} "
            f"--stage {stage}`.",
            known_by=evaluation.known_by.isoformat(),
        )


async def record(
    office: Office,
    release: Release,
    stage: Stage,
    *,
    is_passed: bool,
    results: Mapping[str, Any],
    actor: str,
) -> Evaluation:
    """Store what the gates said. Raises `ProductionMoved` and `NotInThisState`."""
    row: dict[str, Any] = {
        "evaluation_id": uuid.uuid4(),
        "release_id": release.release_id,
        "policy_hash": release.policy_hash,
        "production_seq": release.base_seq,
        "stage": stage.value,
        "evaluated_at": datetime.now(UTC),
        "is_passed": is_passed,
        "results": orjson.dumps(dict(results), option=orjson.OPT_SORT_KEYS).decode(),
    }
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        unit.add(tables.gate_evaluations, [row])
        made = evaluation_of(row)
        detail = {"evaluation": str(made.evaluation_id), "stage": stage, "is_passed": is_passed}
        detail["known_by"] = made.known_by.isoformat()
        await happen(unit, release.subject, Kind.GATED, actor=actor, detail=detail)
    return made


async def get(db: Database, evaluation_id: UUID) -> Evaluation:
    """The evaluation with this id, which is stored."""
    c = tables.gate_evaluations.c
    query = select(tables.gate_evaluations).where(c.evaluation_id == evaluation_id)
    async with db.read() as conn:
        return evaluation_of(dict((await conn.execute(query)).mappings().one()))


async def newest(db: Database, release_id: UUID, stage: Stage) -> Evaluation | None:
    """What the gates before this stage said last; None when they were not asked."""
    c = tables.gate_evaluations.c
    query = select(tables.gate_evaluations).where(c.release_id == release_id, c.stage == stage)
    async with db.read() as conn:
        found = await conn.execute(query.order_by(c.evaluated_at.desc()).limit(1))
        row = found.mappings().one_or_none()
    return None if row is None else evaluation_of(dict(row))


async def voided_by(unit: Unit, release_id: UUID, evaluation_id: UUID) -> Kind | None:
    """What happened to the release since, that what the gates said does not outlive."""
    voiding = [kind.value for kind in VOIDING]
    found = await unit.conn.fetchval(_VOIDED_BY, release_id, str(evaluation_id), voiding)
    return None if found is None else Kind(found)


def evaluation_of(row: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a stored row."""
    values: dict[str, Any] = {name: row[name] for name in Evaluation.__slots__}
    values["stage"], values["results"] = Stage(row["stage"]), orjson.loads(row["results"])
    return Evaluation(**values)


_VOIDED_BY = """
    SELECT b.kind FROM release_events e JOIN release_events b ON b.release_id = e.release_id
    WHERE e.release_id = $1 AND e.kind = 'gated' AND e.detail::json ->> 'evaluation' = $2
      AND b.seq > e.seq AND b.kind = ANY ($3::text[])
    ORDER BY b.seq DESC LIMIT 1
"""
