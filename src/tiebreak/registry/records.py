"""Release records: the audited, MACed word on which policy is in production, and which bundle."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import select

from tiebreak.audit.lanes import Lane
from tiebreak.audit.seals import canonical
from tiebreak.core.policy import PolicyParts
from tiebreak.errors import Conflict, IntegrityFailure, NotAllowed
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.addresses import parts_of
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit


class ForgedRelease(IntegrityFailure):
    """The newest release record does not carry the MAC of any seal key."""

    code = "forged_release"


class SameAuthorAndApprover(NotAllowed):
    """A policy needs an approver who is not its author."""

    code = "four_eyes"


class HistoryMoved(Conflict):
    """Another generation of the history log serves than the one the policy names."""

    code = "history_moved"


class AlreadyInProduction(Conflict):
    """The workflow has a policy in production; only the first one is installed."""

    code = "already_in_production"


class ProductionMoved(Conflict):
    """Another policy came into production in the meantime."""

    code = "production_moved"


class Kind(StrEnum):
    """How a release record came about."""

    INSTALL = "install"  # the workflow's first policy
    PROMOTE = "promote"  # a release that passed its gates
    ROLLBACK = "rollback"  # back to an earlier policy, by two persons
    DEMOTE = "demote"  # back to an earlier policy or to rules alone, at once, by one person


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """The newest release record of a workflow."""

    workflow: str
    seq: int
    policy_hash: str
    bundle_digest: str | None
    author: str
    approver: str | None  # None: a demotion
    reason: str
    created_at: datetime
    kind: Kind
    release_id: UUID | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A release record to be written; `seq` is one more than that of the newest the caller saw."""

    kind: Kind
    seq: int
    parts: PolicyParts
    author: str
    approver: str | None
    reason: str
    release_id: UUID | None = None


async def install(
    lane: Lane,
    keyring: Keyring,
    parts: PolicyParts,
    *,
    author: str,
    approver: str,
    reason: str,
) -> ReleaseRecord:
    """Put a workflow's first policy into production; both persons must be known.

    Raises `SameAuthorAndApprover` and `AlreadyInProduction`, which the database refuses too, and
    `HistoryMoved`.
    """
    check_two(author, approver)
    async with lane.unit() as unit:
        if await lock(unit, parts.workflow):
            raise AlreadyInProduction(
                hint="Propose a change of it: `tiebreak release propose WORKFLOW --reason WHY`.",
                workflow=parts.workflow,
            )
        draft = Draft(Kind.INSTALL, 1, parts, author, approver, reason)
        record = await append(unit, keyring, draft)
        told = {"seq": record.seq, "bundle_digest": record.bundle_digest, "reason": reason}
        told |= {"approver": approver, "is_gated": False}
        unit.note(author, "release.installed", f"{parts.workflow}/{parts.hash}", told)
    return record


async def lock(unit: Unit, workflow: str) -> int:
    """Take the workflow's release lock to the end of the unit; the newest record's seq, 0: none."""
    await unit.conn.execute("SELECT lock_releases($1)", workflow)
    return await unit.conn.fetchval("SELECT production_seq($1)", workflow)


async def append(unit: Unit, keyring: Keyring, draft: Draft) -> ReleaseRecord:
    """Write a release record, and the policy where it is not stored yet.

    Of those who saw the same record one wins. Raises `SameAuthorAndApprover`, `ProductionMoved`
    for the others, and `HistoryMoved`.
    """
    parts = draft.parts
    check_two(draft.author, draft.approver)
    seen = await lock(unit, parts.workflow)
    if draft.seq != seen + 1:
        raise ProductionMoved(
            hint="Look at what is in production now: `tiebreak release status`.",
            workflow=parts.workflow,
            seq=seen,
        )
    generation = await unit.conn.fetchval(_GENERATION, parts.workflow)
    if generation is not None and generation != parts.history_generation:
        raise HistoryMoved(
            hint="Take a policy of the generation that serves.",
            workflow=parts.workflow,
            generation=generation,
        )
    await store_policy(unit, parts, author=draft.author)
    row: dict[str, Any] = {
        "workflow": parts.workflow,
        "seq": draft.seq,
        "policy_hash": parts.hash,
        "bundle_digest": parts.bundle_digest,
        "author": draft.author,
        "approver": draft.approver,
        "reason": draft.reason,
        "created_at": datetime.now(UTC),
        "kind": draft.kind.value,
        "release_id": draft.release_id,
    }
    row["mac"] = _mac(row, keyring.seal_keys[keyring.seal_key_id])
    unit.add(tables.release_records, [row])
    await unit.flush()
    return _record(row)


async def genuine(unit: Unit, keyring: Keyring, workflow: str) -> list[ReleaseRecord]:
    """The workflow's records that carry a MAC of ours, newest first."""
    rows = [checked(row, keyring) for row in await unit.conn.fetch(_ALL, workflow)]
    return [row for row in rows if isinstance(row, ReleaseRecord)]


async def newest(unit: Unit, keyring: Keyring, workflow: str) -> ReleaseRecord | None:
    """The workflow's newest record; None: there is none. Raises `ForgedRelease`."""
    row = await unit.conn.fetchrow(f"{_ALL} LIMIT 1", workflow)
    found = None if row is None else checked(row, keyring)
    if isinstance(found, ForgedRelease):
        raise found
    return found


async def store_policy(unit: Unit, parts: PolicyParts, *, author: str) -> None:
    """Store what a policy is made of, unless it is stored."""
    is_known = await unit.conn.fetchval(_IS_KNOWN, parts.hash)
    if not is_known:
        row = {"policy_hash": parts.hash, **asdict(parts), "author": author}
        unit.add(tables.policies, [row | {"created_at": datetime.now(UTC)}])
        await unit.flush()


async def workflow_version(db: Database, release: ReleaseRecord) -> str:
    """The address of the workflow version that the released policy is made of.

    Raises `AlteredPolicy`.
    """
    query = select(tables.policies).where(tables.policies.c.policy_hash == release.policy_hash)
    async with db.read() as conn:
        row = (await conn.execute(query)).mappings().one()
    return parts_of(dict(row)).workflow_version


async def current(db: Database, keyring: Keyring) -> dict[str, ReleaseRecord | ForgedRelease]:
    """The newest record of every workflow, or what is wrong with it."""
    async with db.connection() as conn:
        rows = [dict(row) for row in await conn.fetch(_NEWEST)]
    return {row["workflow"]: checked(row, keyring) for row in rows}


async def seq_now(db: Database, workflow: str) -> int:
    """The number of the newest record, forged or not; 0: none."""
    async with db.connection() as conn:
        return await conn.fetchval("SELECT production_seq($1)", workflow)


def checked(row: Mapping[str, Any], keyring: Keyring) -> ReleaseRecord | ForgedRelease:
    """The record of a stored row, or what is wrong with it."""
    if any(hmac.compare_digest(row["mac"], _mac(row, k)) for k in keyring.seal_keys.values()):
        return _record(row)
    return ForgedRelease(
        hint="Find who wrote it with `tiebreak audit verify`, then demote or roll back.",
        workflow=row["workflow"],
        seq=row["seq"],
    )


def check_two(author: str, approver: str | None) -> None:
    """Raises `SameAuthorAndApprover` when one person is both."""
    if author == approver:
        raise SameAuthorAndApprover(hint="Ask another person to approve it.", author=author)


def _mac(row: Mapping[str, Any], key: bytes) -> bytes:
    """HMAC-SHA256 over the record, in another domain where it is from before kinds were noted."""
    if row["kind"] is None:
        domain, names = b"tiebreak release 1\n", _FIRST_COVERED
    else:
        domain, names = b"tiebreak release 2\n", ReleaseRecord.__slots__
    content = canonical(tables.release_records, {name: row[name] for name in names})
    return hmac.digest(key, domain + content, "sha256")


def _record(row: Mapping[str, Any]) -> ReleaseRecord:
    values: dict[str, Any] = {name: row[name] for name in ReleaseRecord.__slots__}
    values["kind"] = Kind(row["kind"] or Kind.INSTALL)
    return ReleaseRecord(**values)


_FIRST_COVERED = (
    "workflow",
    "seq",
    "policy_hash",
    "bundle_digest",
    "author",
    "approver",
    "reason",
    "created_at",
)

_NEWEST = "SELECT DISTINCT ON (workflow) * FROM release_records ORDER BY workflow, seq DESC"
_ALL = "SELECT * FROM release_records WHERE workflow = $1 ORDER BY seq DESC"
_IS_KNOWN = "SELECT EXISTS (SELECT FROM policies WHERE policy_hash = $1)"

# Held to the end, so that no generation takes over between this look and the record.
_GENERATION = "SELECT history_generation FROM workflow_clocks WHERE workflow = $1 FOR SHARE"
