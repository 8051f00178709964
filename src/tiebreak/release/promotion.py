"""Promotion: a release into production, and back to an earlier policy by two persons."""

from __future__ import annotations

from datetime import UTC, datetime
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
from tiebreak.settings import Keyring
from tiebreak.store import tables
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
        approval = await standing(unit, office.keyring, release_id, Stage.PROMOTION, but=author)
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

    The approval of `approver`, who is not an author of the policy, is recorded with it. Raises
    `SameAuthorAndApprover`, `ProductionMoved`, `IsInProduction`, `NeverInProduction`, `ModelUnfit`
    and `HistoryMoved`.
    """
    parts = await office.library.parts(policy_hash)
    await check_builds(office.library, parts)
    async with office.lane.unit() as unit:
        await check_replaceable(unit, office.keyring, workflow, seq, policy_hash)
        named = await _named(unit, office.keyring, parts)
        if not named:
            raise NeverInProduction(hint="Propose it as a release.", policy_hash=policy_hash)
        records.check_two(author, approver)
        await _approve_rollback(unit, parts, seq, approver=approver, reason=reason)
        kind, release_id = RecordKind.ROLLBACK, named[0].release_id
        draft = Draft(kind, seq + 1, parts, author, approver, reason, release_id)
        return await replace(unit, office, draft)


async def check_replaceable(
    unit: Unit, keyring: Keyring, workflow: str, seq: int, policy_hash: str
) -> None:
    """Take the release lock; raises `ProductionMoved`, or `IsInProduction` if it is this policy.

    What a forged record names is not in production, so that a genuine one can take its place.
    """
    newest = await records.lock(unit, workflow)
    if newest != seq:
        raise records.ProductionMoved(
            hint="Look at what is in production now: `tiebreak release status`.",
            workflow=workflow,
            seq=newest,
        )
    known = await records.genuine(unit, keyring, workflow)
    if known and (known[0].seq, known[0].policy_hash) == (seq, policy_hash):
        raise IsInProduction(hint="Nothing is to be done.", policy_hash=policy_hash)


async def replace(unit: Unit, office: Office, draft: Draft) -> ReleaseRecord:
    """Write the record, end any canary and tell the journal and both releases' events."""
    workflow = draft.parts.workflow
    await canaries.stop(unit, office.keyring, workflow, author=draft.author)
    record = await records.append(unit, office.keyring, draft)
    detail = {
        "seq": record.seq,
        "kind": record.kind,
        "bundle_digest": record.bundle_digest,
        "approver": record.approver,
        "reason": record.reason,
    }
    was_there = False
    for row in await unit.conn.fetch(_IN_PRODUCTION, workflow):
        if row["release_id"] == record.release_id:
            was_there = True  # a forged record stood between
            continue
        old = Subject(row["release_id"], workflow, row["policy_hash"])
        await happen(unit, old, Kind.RETIRED, actor=draft.author, detail={"seq": record.seq})
    if record.release_id is not None and not was_there:
        new = Subject(record.release_id, workflow, record.policy_hash)
        await happen(unit, new, Kind.PROMOTED, actor=draft.author, detail=detail)
    unit.note(draft.author, _ACTIONS[record.kind], f"{workflow}/{record.policy_hash}", detail)
    return record


async def draft_back(
    unit: Unit,
    keyring: Keyring,
    kind: RecordKind,
    parts: PolicyParts,
    *,
    seq: int,
    author: str,
    reason: str,
) -> Draft:
    """A record that goes back to this policy without anybody's approval."""
    named = await _named(unit, keyring, parts)
    release_id = named[0].release_id if named else None
    return Draft(kind, seq + 1, parts, author, None, reason, release_id)


async def _named(unit: Unit, keyring: Keyring, parts: PolicyParts) -> list[ReleaseRecord]:
    """The genuine records that name the policy, newest first; an installation has no release."""
    known = await records.genuine(unit, keyring, parts.workflow)
    return [record for record in known if record.policy_hash == parts.hash]


async def _approve_rollback(
    unit: Unit, parts: PolicyParts, seq: int, *, approver: str, reason: str
) -> None:
    """Record the approval. Raises `SameAuthorAndApprover` when the policy is the approver's."""
    if await unit.conn.fetchval(_IS_AUTHOR, parts.workflow, parts.hash, approver):
        raise records.SameAuthorAndApprover(
            f"The policy is by {approver}.",
            hint="Ask another person to approve it.",
            author=approver,
        )
    row = {
        "workflow": parts.workflow,
        "production_seq": seq,
        "policy_hash": parts.hash,
        "approver": approver,
        "given_at": datetime.now(UTC),
        "reason": reason,
    }
    unit.add(tables.rollback_approvals, [row])
    subject = f"{parts.workflow}/{parts.hash}"
    unit.note(approver, "production.rollback_approved", subject, {"seq": seq + 1})
    await unit.flush()  # the record's trigger asks for it


_ACTIONS = {
    RecordKind.PROMOTE: "production.promoted",
    RecordKind.ROLLBACK: "production.rolled_back",
    RecordKind.DEMOTE: "production.demoted",
}
_IN_PRODUCTION = """
    SELECT release_id, policy_hash FROM releases
    WHERE workflow = $1 AND release_state(release_id) = 'production'
"""
_IS_AUTHOR = "SELECT is_rollback_author($1, $2, $3)"
