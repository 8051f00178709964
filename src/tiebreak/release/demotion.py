"""Demotion: at once back to what was there before, by one person; a second signs within a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import select

from tiebreak.core.policy import PolicyParts
from tiebreak.errors import Conflict, NotAllowed, NotFound, Problem
from tiebreak.registry import records
from tiebreak.registry.records import Kind, ProductionMoved, ReleaseRecord
from tiebreak.release import promotion
from tiebreak.release.releases import Office
from tiebreak.release.shadow import SYSTEM
from tiebreak.store import tables
from tiebreak.store.addresses import parts_of
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit
from tiebreak.workflows import versions

DUE: Final = timedelta(hours=24)
OVERDUE: Final = "production.countersignature_overdue"


class NothingBefore(Conflict):
    """No other policy was in production before this one."""

    code = "nothing_before"


class NoSuchDemotion(NotFound):
    """This release record is no demotion."""

    code = "no_such_demotion"


class OwnDemotion(NotAllowed):
    """A demotion is countersigned by somebody else."""

    code = "own_demotion"


class AlreadyCountersigned(Conflict):
    """The demotion is countersigned."""

    code = "already_countersigned"


class CountersignatureOverdue(Conflict):
    """Nobody has countersigned a demotion in time."""

    code = "countersignature_overdue"


class Target(StrEnum):
    """What a demotion goes back to."""

    PREVIOUS = "previous"  # what was in production before this one first was, not demoted itself
    RULES = "rules"  # the rules of this policy, without its model


@dataclass(frozen=True, slots=True)
class Demotion:
    """A demotion that waits for its second signature."""

    workflow: str
    seq: int
    policy_hash: str
    author: str
    reason: str
    created_at: datetime
    due_at: datetime


async def demote(
    office: Office, workflow: str, target: Target, *, seq: int, author: str, reason: str
) -> ReleaseRecord:
    """Go back at once, by one person; `seq` is that of the record in production.

    Where that record is forged, what was in production before it counts as the policy before. What
    a demotion took out does not come back by another one: that takes two persons.
    Raises `UnknownWorkflow`, `ProductionMoved`, `NothingBefore`, `HistoryMoved` when the policy
    before needs another generation of the history log, and `IsInProduction` when rules decide alone
    already.
    """
    async with office.lane.unit() as unit:
        newest = await records.lock(unit, workflow)
        if not newest:
            await versions.latest(office.db, workflow)
            raise NothingBefore("Nothing is in production.", workflow=workflow)
        if newest != seq:
            raise ProductionMoved(
                hint="Look at what is in production now: `tiebreak release status`.",
                workflow=workflow,
                seq=newest,
            )
        known = await records.genuine(unit, office.keyring, workflow)
        policy_hash = _before(known, seq) if target is Target.PREVIOUS else _now(known)
        if policy_hash is None and target is Target.RULES:  # every record of it is forged
            policy_hash = await unit.conn.fetchval(_NAMED, workflow, seq)
        if policy_hash is None:
            raise NothingBefore(hint="Demote to rules alone.", workflow=workflow)
        parts = await _parts(unit, policy_hash)
        if target is Target.RULES:
            # Rules must be there at once: whatever generation serves keeps what production reads.
            generation = await unit.conn.fetchval(_GENERATION, workflow)
            serving = parts.history_generation if generation is None else generation
            parts = replace(parts, bundle_digest=None, history_generation=serving)
        keyring = office.keyring
        await promotion.check_replaceable(unit, keyring, workflow, seq, parts.hash)
        draft = await promotion.draft_back(
            unit, keyring, Kind.DEMOTE, parts, seq=seq, author=author, reason=reason
        )
        return await promotion.replace(unit, office, draft)


async def countersign(
    office: Office, workflow: str, seq: int, *, signer: str, note: str = ""
) -> None:
    """Sign another person's demotion.

    Raises `NoSuchDemotion`, `OwnDemotion` and `AlreadyCountersigned`.
    """
    async with office.lane.unit() as unit:
        await records.lock(unit, workflow)
        row = await unit.conn.fetchrow(_DEMOTION, workflow, seq)
        if row is None:
            raise NoSuchDemotion(
                hint="`tiebreak release status` shows demotions.", workflow=workflow
            )
        if row["author"] == signer:
            raise OwnDemotion(hint="Ask another person to sign it.", author=signer)
        if row["is_signed"]:
            raise AlreadyCountersigned(hint="Nothing is to be done.", workflow=workflow, seq=seq)
        signature: dict[str, Any] = {
            "workflow": workflow,
            "seq": seq,
            "signer": signer,
            "at": datetime.now(UTC),
            "note": note,
        }
        unit.add(tables.release_countersignatures, [signature])
        subject = f"{workflow}/{row['policy_hash']}"
        unit.note(signer, "production.countersigned", subject, {"seq": seq})


async def unsigned(db: Database) -> list[Demotion]:
    """The demotions that nobody has countersigned, oldest first."""
    made, signed = tables.release_records.c, tables.release_countersignatures.c
    names = ("workflow", "seq", "policy_hash", "author", "reason", "created_at")
    is_signed = select(signed.seq).where(signed.workflow == made.workflow, signed.seq == made.seq)
    query = (
        select(*(made[name] for name in names))
        .where(made.kind == Kind.DEMOTE, ~is_signed.exists())
        .order_by(made.created_at)
    )
    async with db.read() as conn:
        rows = (await conn.execute(query)).mappings().all()
    return [Demotion(**row, due_at=row["created_at"] + DUE) for row in rows]


async def overdue(db: Database, *, now: datetime) -> list[Demotion]:
    """The demotions whose second signature is late, oldest first."""
    return [demotion for demotion in await unsigned(db) if demotion.due_at < now]


async def note_overdue(office: Office, *, now: datetime) -> list[Demotion]:
    """Note each late signature in the journal, once; those that are noted now, oldest first."""
    noted: list[Demotion] = []
    for late in await overdue(office.db, now=now):
        # One subject each, so that no detail needs to be read, which anybody may have written.
        subject = f"{late.workflow}/{late.policy_hash}/{late.seq}"
        async with office.lane.unit() as unit:
            await records.lock(unit, late.workflow)
            if not await unit.conn.fetchval(_IS_NOTED, OVERDUE, subject):
                unit.note(SYSTEM, OVERDUE, subject, {"seq": late.seq, "author": late.author})
                noted.append(late)
    return noted


def late_signature(demotion: Demotion) -> Problem:
    """What to tell of a demotion whose second signature is late."""
    workflow = demotion.workflow
    return Problem(
        f"workflows.{workflow}.release",
        CountersignatureOverdue.code,
        f"Nobody has countersigned the demotion of {workflow} by {demotion.author}, "
        f"due since {demotion.due_at:%Y-%m-%d %H:%M} UTC.",
        f"Somebody else signs it: `tiebreak release countersign {workflow} --as PERSON`.",
    )


def _before(known: Sequence[ReleaseRecord], seq: int) -> str | None:
    """The policy before the one that the record `seq` names; `known` is genuine, newest first.

    What a demotion took out is passed over.
    """
    if not known or known[0].seq != seq:
        return _now(known)  # the newest is forged
    first = min(r.seq for r in known if r.policy_hash == known[0].policy_hash)
    out = _taken_out(known)
    return next((r.policy_hash for r in known if r.seq < first and r.policy_hash not in out), None)


def _taken_out(known: Sequence[ReleaseRecord]) -> set[str]:
    """The policies that a demotion took out, and that no two persons have put back since."""
    out = set[str]()
    for before, record in pairwise(reversed(known)):
        if record.kind is not Kind.DEMOTE:
            out.discard(record.policy_hash)
        elif before.policy_hash != record.policy_hash:  # else it superseded a forged record
            out.add(before.policy_hash)
    return out


def _now(known: Sequence[ReleaseRecord]) -> str | None:
    """The policy that decides."""
    return known[0].policy_hash if known else None


async def _parts(unit: Unit, policy_hash: str) -> PolicyParts:
    return parts_of(await unit.conn.fetchrow(_POLICY, policy_hash))


_NAMED = "SELECT policy_hash FROM release_records WHERE workflow = $1 AND seq = $2"
_GENERATION = "SELECT history_generation FROM workflow_clocks WHERE workflow = $1 FOR SHARE"
_POLICY = "SELECT * FROM policies WHERE policy_hash = $1"
_IS_NOTED = """
    SELECT EXISTS (SELECT FROM system_audit WHERE action = $1 AND subject = $2)
"""
_DEMOTION = """
    SELECT r.author, r.policy_hash, EXISTS (
        SELECT FROM release_countersignatures s
        WHERE s.workflow = r.workflow AND s.seq = r.seq) AS is_signed
    FROM release_records r WHERE r.workflow = $1 AND r.seq = $2 AND r.kind = 'demote'
"""
