"""Approvals: another person's word on a release that passed its gates; they expire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select

from tiebreak.errors import Conflict, InvalidInput
from tiebreak.registry.records import SameAuthorAndApprover
from tiebreak.release import evaluations
from tiebreak.release.events import happen
from tiebreak.release.plans import in_force
from tiebreak.release.releases import Office, check_current, get
from tiebreak.release.states import Kind, Stage
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit

MOST_HOURS: Final = 31 * 24


class NotGated(Conflict):
    """The release has not passed the gates before this stage."""

    code = "not_gated"


class AlreadyApproved(Conflict):
    """This person has approved what the gates said of the release."""

    code = "already_approved"


class ApprovalTooLong(InvalidInput):
    """An approval stands no longer than production's version allows."""

    code = "approval_too_long"


class NotApproved(Conflict):
    """No approval by another person stands."""

    code = "not_approved"


@dataclass(frozen=True, slots=True)
class Approval:
    """One person's approval of a release for a stage."""

    evaluation_id: UUID
    approver: str
    release_id: UUID
    stage: Stage
    policy_hash: str
    production_seq: int
    given_at: datetime
    expires_at: datetime
    note: str


async def approve(
    office: Office,
    release_id: UUID,
    stage: Stage,
    *,
    approver: str,
    note: str = "",
    lifetime: timedelta | None = None,
) -> Approval:
    """Approve what the gates said last, of exactly this policy against exactly this production.

    Without a lifetime it stands as long as the plan in force lets it; beyond that raises
    `ApprovalTooLong`. Raises `SameAuthorAndApprover`, `NotGated`, `ProductionMoved`,
    `NotInThisState` and `AlreadyApproved`; the database refuses these, and more than 31 days, too.
    """
    release = await get(office.db, release_id)
    if approver == release.author:
        raise SameAuthorAndApprover(hint="Ask another person to approve it.", author=approver)
    longest = timedelta(hours=(await in_force(office, release)).plan.approval_hours)
    if lifetime is not None and lifetime > longest:
        raise ApprovalTooLong(
            hint=f"At most {longest / timedelta(hours=1):g} hours: `release.approval_hours` of the "
            "version in production.",
            hours=lifetime / timedelta(hours=1),
        )
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        found = await evaluations.newest(office.db, release_id, stage)
        if found is None or not found.is_passed:
            raise NotGated(
                hint=f"Let it score (`tiebreak release shadow start {release_id}`), then ask its "
                f"gates: `tiebreak release gates {release_id} --stage {stage}`.",
                release=str(release_id),
                stage=stage,
            )
        if await unit.conn.fetchval(_IS_GIVEN, found.evaluation_id, approver):
            raise AlreadyApproved(
                hint="When it has expired, evaluate the gates again.", approver=approver
            )
        now = datetime.now(UTC)
        row: dict[str, Any] = {
            "evaluation_id": found.evaluation_id,
            "approver": approver,
            "release_id": release_id,
            "stage": stage.value,
            "policy_hash": release.policy_hash,
            "production_seq": release.base_seq,
            "given_at": now,
            "expires_at": now + (lifetime or longest),
            "note": note,
        }
        unit.add(tables.release_approvals, [row])
        detail = {"evaluation": str(found.evaluation_id), "stage": stage}
        await happen(unit, release.subject, Kind.APPROVED, actor=approver, detail=detail)
    return _approval(row)


async def approvals_of(db: Database, release_id: UUID) -> list[Approval]:
    """All approvals of a release, newest first, expired ones too."""
    table = tables.release_approvals
    query = select(table).where(table.c.release_id == release_id)
    async with db.read() as conn:
        rows = (await conn.execute(query.order_by(table.c.given_at.desc()))).mappings().all()
    return [_approval(dict(row)) for row in rows]


async def standing(unit: Unit, release_id: UUID, stage: Stage, *, but: str) -> Approval:
    """The newest unexpired approval by another person than `but`. Raises `NotApproved`."""
    row = await unit.conn.fetchrow(_STANDING, release_id, stage.value, but)
    if row is None:
        raise NotApproved(
            hint=f"Somebody else than {but} and its author approves it: "
            f"`tiebreak release approve {release_id} --stage {stage}`.",
            release=str(release_id),
            stage=stage,
        )
    return _approval(row)


def _approval(row: Mapping[str, Any]) -> Approval:
    values: dict[str, Any] = {name: row[name] for name in Approval.__slots__}
    values["stage"] = Stage(row["stage"])
    return Approval(**values)


_IS_GIVEN = """
    SELECT EXISTS (SELECT FROM release_approvals WHERE evaluation_id = $1 AND approver = $2)
"""
_STANDING = """
    SELECT a.* FROM release_approvals a JOIN releases r ON r.release_id = a.release_id
    WHERE a.release_id = $1 AND a.stage = $2 AND a.approver <> $3
      AND is_release_approved(r.release_id, a.stage, r.base_seq, a.approver, $3)
    ORDER BY a.given_at DESC LIMIT 1
"""
