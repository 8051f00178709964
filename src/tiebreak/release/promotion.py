"""Promotion: a release into production, and back to an earlier policy by two persons."""

from __future__ import annotations

from uuid import UUID

from tiebreak.core.policy import PolicyParts
from tiebreak.errors import Conflict
from tiebreak.registry import canaries, records
from tiebreak.registry.records import Draft, ReleaseRecord
from tiebreak.registry.records import Kind as RecordKind
from tiebreak.release.approvals import standing
from tiebreak.release.events import Subject, happen
from tiebreak.release.releases import Office, check_builds, check_current, check_state, get
from tiebreak.release.states import Kind, Stage, State
from tiebreak.store.unit import Unit


class NeverInProduction(Conflict):
    """The policy was never in production."""

    code = "never_in_production"


class IsInProduction(Conflict):
    """The policy is in production."""

    code = "is_in_production"


async def promote(office: Office, release_id: UUID, *, author: str, reason: str) -> ReleaseRecord:
    """Put a release into production by the approval of somebody else than `author`.

    Of promotions at once one wins. Raises `NoSuchRelease`, `NotInThisState`, `ProductionMoved`,
    `NotApproved`, `ModelUnfit` and `HistoryMoved`.
    """
    release = await get(office.db, release_id)
    parts = await office.library.parts(release.policy_hash)
    await check_builds(office.library, parts)
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        await check_state(unit, release, (State.READY, State.SHADOW), "promoted")
        approval = await standing(unit, release_id, Stage.PROMOTION, but=author)
        seq = release.base_seq + 1
        kind = RecordKind.PROMOTE
        draft = Draft(kind, seq, parts, author, approval.approver, reason, release_id)
        return await replace(unit, office, draft)


async def rollback(
    office: Office,
    workflow: str,
    policy_hash: str,
    *,
    seq: int,
    author: str,
    approver: str,
    reason: str,
) -> ReleaseRecord:
    """Put an earlier policy back into production; `seq` is that of the record it shall replace.

    Raises `SameAuthorAndApprover`, `ProductionMoved`, `IsInProduction`, `NeverInProduction`,
    `ModelUnfit` and `HistoryMoved`.
    """
    parts = await office.library.parts(policy_hash)
    await check_builds(office.library, parts)
    async with office.lane.unit() as unit:
        await check_replaceable(unit, workflow, seq, policy_hash)
        known = await unit.conn.fetch(_WAS, workflow, policy_hash)
        if not known:
            raise NeverInProduction(hint="Propose it as a release.", policy_hash=policy_hash)
        release_id = await _release_of(unit, workflow, policy_hash)
        kind = RecordKind.ROLLBACK
        draft = Draft(kind, seq + 1, parts, author, approver, reason, release_id)
        return await replace(unit, office, draft)


async def check_replaceable(unit: Unit, workflow: str, seq: int, policy_hash: str) -> None:
    """Take the release lock; raises `ProductionMoved`, or `IsInProduction` if it is this policy."""
    newest = await records.lock(unit, workflow)
    if newest != seq:
        raise records.ProductionMoved(
            hint="Look at what is in production now: `tiebreak release status`.",
            workflow=workflow,
            seq=newest,
        )
    if await unit.conn.fetchval(_POLICY, workflow, seq) == policy_hash:
        raise IsInProduction(hint="Nothing is to be done.", policy_hash=policy_hash)


async def replace(unit: Unit, office: Office, draft: Draft) -> ReleaseRecord:
    """Write the record, end any canary and tell the journal and both releases' events."""
    workflow = draft.parts.workflow
    before = await unit.conn.fetchrow(_NEWEST, workflow)
    await canaries.stop(unit, office.keyring, workflow, author=draft.author)
    record = await records.append(unit, office.keyring, draft)
    detail = {
        "seq": record.seq,
        "kind": record.kind,
        "bundle_digest": record.bundle_digest,
        "approver": record.approver,
        "reason": record.reason,
    }
    if before is not None and before["release_id"] is not None:
        old = Subject(before["release_id"], workflow, before["policy_hash"])
        if before["release_id"] != record.release_id:
            await happen(unit, old, Kind.RETIRED, actor=draft.author, detail={"seq": record.seq})
    if record.release_id is not None:
        new = Subject(record.release_id, workflow, record.policy_hash)
        await happen(unit, new, Kind.PROMOTED, actor=draft.author, detail=detail)
    unit.note(draft.author, _ACTIONS[record.kind], f"{workflow}/{record.policy_hash}", detail)
    return record


async def draft_back(
    unit: Unit, kind: RecordKind, parts: PolicyParts, *, seq: int, author: str, reason: str
) -> Draft:
    """A record that goes back to this policy without anybody's approval."""
    release_id = await _release_of(unit, parts.workflow, parts.hash)
    return Draft(kind, seq + 1, parts, author, None, reason, release_id)


async def _release_of(unit: Unit, workflow: str, policy_hash: str) -> UUID | None:
    """The release by which the policy came into production last; None when it was installed."""
    return await unit.conn.fetchval(_RELEASE, workflow, policy_hash)


_ACTIONS = {
    RecordKind.PROMOTE: "production.promoted",
    RecordKind.ROLLBACK: "production.rolled_back",
    RecordKind.DEMOTE: "production.demoted",
}
_NEWEST = "SELECT * FROM release_records WHERE workflow = $1 ORDER BY seq DESC LIMIT 1"
_POLICY = "SELECT policy_hash FROM release_records WHERE workflow = $1 AND seq = $2"
_WAS = "SELECT FROM release_records WHERE workflow = $1 AND policy_hash = $2 LIMIT 1"
_RELEASE = """
    SELECT release_id FROM release_records WHERE workflow = $1 AND policy_hash = $2
    ORDER BY seq DESC LIMIT 1
"""
