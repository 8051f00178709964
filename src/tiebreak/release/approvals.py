"""Approvals: another person's word on a release that passed its gates; they expire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select

from tiebreak.audit.genuine import is_genuine
from tiebreak.errors import Conflict, IntegrityFailure, InvalidInput
from tiebreak.registry.records import SameAuthorAndApprover
from tiebreak.release import evaluations
from tiebreak.release.evaluations import Evaluation
from tiebreak.release.events import happen
from tiebreak.release.plans import in_force
from tiebreak.release.releases import Office, check_current, get
from tiebreak.release.states import Kind, Stage
from tiebreak.settings import Keyring
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


class ForgedEvidence(IntegrityFailure):
    """No seal commits to what the gates said of the release, or to its approval."""

    code = "forged_evidence"


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

    Nobody approves what is their own: the release, its policy, or a version or model that it
    changes. Without a lifetime it stands as long as the plan in force lets it; beyond that raises
    `ApprovalTooLong`. Raises `SameAuthorAndApprover`, `NotGated`, `ProductionMoved`,
    `NotInThisState` and `AlreadyApproved`; the database refuses all of these, and more than 31
    days, too. Raises `ForgedEvidence` when no seal commits to what the gates said, and
    `EvidenceOfThePast` when they were asked by what was known long ago.
    """
    release = await get(office.db, release_id)
    longest = timedelta(hours=(await in_force(office, release)).plan.approval_hours)
    if lifetime is not None and lifetime > longest:
        raise ApprovalTooLong(
            hint=f"At most {longest / timedelta(hours=1):g} hours: `release.approval_hours` of the "
            "version in production.",
            hours=lifetime / timedelta(hours=1),
        )
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        if await unit.conn.fetchval(_IS_AUTHOR, release_id, approver):
            raise SameAuthorAndApprover(
                f"The release, or what it changes, is by {approver}.",
                hint="Ask another person to approve it.",
                author=approver,
            )
        found = await _evidence(unit, office, release_id, stage)
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
        detail["known_by"] = found.known_by.isoformat()
        await happen(unit, release.subject, Kind.APPROVED, actor=approver, detail=detail)
    return _approval(row)


async def approvals_of(db: Database, release_id: UUID) -> list[Approval]:
    """All approvals of a release, newest first, expired ones too."""
    table = tables.release_approvals
    query = select(table).where(table.c.release_id == release_id)
    async with db.read() as conn:
        rows = (await conn.execute(query.order_by(table.c.given_at.desc()))).mappings().all()
    return [_approval(dict(row)) for row in rows]


async def standing(
    unit: Unit, keyring: Keyring, release_id: UUID, stage: Stage, *, but: str
) -> Approval:
    """The newest approval by another person than `but` that stands.

    It has not expired, is of what the gates said last, and nothing in `VOIDING` happened since.
    Raises `NotApproved`, `ForgedEvidence` when no seal commits to what stands, and
    `EvidenceOfThePast`.
    """
    rows = await unit.conn.fetch(_STANDING, release_id, stage.value, but)
    for row in rows:
        evaluation = await unit.conn.fetchrow(_EVALUATION, row["evaluation_id"])
        if await _are_genuine(unit, keyring, row, evaluation):
            evaluations.check_timely(evaluations.evaluation_of(evaluation))
            return _approval(row)
    if rows:
        raise _forged(release_id)
    raise NotApproved(
        await _why_not(unit, release_id, stage, but),
        hint=f"Somebody else than {but} and its authors approves it: "
        f"`tiebreak release approve {release_id} --stage {stage}`.",
        release=str(release_id),
        stage=stage,
    )


async def _evidence(unit: Unit, office: Office, release_id: UUID, stage: Stage) -> Evaluation:
    """What the gates said last, if it may be approved."""
    found = await evaluations.newest(office.db, release_id, stage)
    message = None
    if found is not None and found.is_passed:
        evidence = await unit.conn.fetchval(_EVIDENCE, release_id, stage.value)
        if evidence == found.evaluation_id:
            row = await unit.conn.fetchrow(_EVALUATION, found.evaluation_id)
            if not await is_genuine(unit.conn, office.keyring, tables.gate_evaluations, row):
                raise _forged(release_id)
            evaluations.check_timely(found)
            return found
        message = _void(await evaluations.voided_by(unit, release_id, found.evaluation_id))
    raise NotGated(
        message,
        hint=f"Let it score (`tiebreak release shadow start {release_id}`), then ask its "
        f"gates: `tiebreak release gates {release_id} --stage {stage}`.",
        release=str(release_id),
        stage=stage,
    )


async def _are_genuine(
    unit: Unit, keyring: Keyring, approval: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> bool:
    """Whether seals commit to the approval and to what the gates said."""
    pairs = ((tables.release_approvals, approval), (tables.gate_evaluations, evaluation))
    return all([await is_genuine(unit.conn, keyring, table, row) for table, row in pairs])


async def _why_not(unit: Unit, release_id: UUID, stage: Stage, but: str) -> str | None:
    """Why the newest approval by somebody else does not stand; None when there is none."""
    row = await unit.conn.fetchrow(_GIVEN, release_id, stage.value, but)
    if row is None:
        return None
    if row["is_expired"]:
        return f"The approval by {row['approver']} has expired."
    cause = await evaluations.voided_by(unit, release_id, row["evaluation_id"])
    return f"The approval by {row['approver']} is void. {_void(cause)}"


def _void(cause: Kind | None) -> str:
    if cause is None:
        return "The gates were asked again since."
    return f"Since the gates were asked: {cause.replace('_', ' ')}."


def _forged(release_id: UUID) -> ForgedEvidence:
    return ForgedEvidence(
        hint="Find who wrote it with `tiebreak audit verify`, then ask the gates again.",
        release=str(release_id),
    )


def _approval(row: Mapping[str, Any]) -> Approval:
    values: dict[str, Any] = {name: row[name] for name in Approval.__slots__}
    values["stage"] = Stage(row["stage"])
    return Approval(**values)


_IS_AUTHOR = "SELECT is_release_author($1, $2)"
_EVIDENCE = "SELECT release_evidence($1, $2)"
_EVALUATION = "SELECT * FROM gate_evaluations WHERE evaluation_id = $1"
_GIVEN = """
    SELECT approver, evaluation_id, expires_at <= clock_timestamp() AS is_expired
    FROM release_approvals a
    WHERE release_id = $1 AND stage = $2 AND approver <> $3
      AND NOT is_release_author(release_id, approver)
    ORDER BY given_at DESC LIMIT 1
"""
_IS_GIVEN = """
    SELECT EXISTS (SELECT FROM release_approvals WHERE evaluation_id = $1 AND approver = $2)
"""
_STANDING = """
    SELECT a.* FROM release_approvals a JOIN releases r ON r.release_id = a.release_id
    WHERE a.release_id = $1 AND a.stage = $2 AND a.approver <> $3
      AND is_release_approved(r.release_id, a.stage, r.base_seq, a.approver, $3)
      AND a.evaluation_id = release_evidence(r.release_id, a.stage)
    ORDER BY a.given_at DESC
"""
