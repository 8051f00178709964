"""Release records: the audited, MACed word on which policy is in production, and which bundle."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import distinct_on

from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.audit.seals import canonical
from tiebreak.core.policy import PolicyParts
from tiebreak.errors import Conflict, IntegrityFailure, NotAllowed
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.database import Database


class ForgedRelease(IntegrityFailure):
    """The newest release record does not carry the MAC of any seal key."""

    code = "forged_release"


class SameAuthorAndApprover(NotAllowed):
    """A policy needs an approver who is not its author."""

    code = "four_eyes"


class HistoryMoved(Conflict):
    """Another generation of the history log serves than the one the policy names."""

    code = "history_moved"


@dataclass(frozen=True, slots=True)
class Release:
    """The newest release record of a workflow."""

    workflow: str
    seq: int
    policy_hash: str
    bundle_digest: str | None
    author: str
    approver: str
    reason: str
    created_at: datetime


async def install(
    lane: Lane,
    keyring: Keyring,
    parts: PolicyParts,
    *,
    author: str,
    approver: str,
    reason: str,
) -> Release:
    """Put a policy into production by a new release record; both persons must be known.

    Raises `SameAuthorAndApprover`, which the database refuses too, and `HistoryMoved`.
    """
    if author == approver:
        raise SameAuthorAndApprover(hint="Ask another person to approve it.", author=author)
    now = datetime.now(UTC)
    async with lane.unit() as unit:
        await unit.conn.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('release:' || $1, 0))", parts.workflow
        )
        generation = await unit.conn.fetchval(_GENERATION, parts.workflow)
        if generation is not None and generation != parts.history_generation:
            raise HistoryMoved(hint="Install it again.", workflow=parts.workflow)
        seq = await unit.conn.fetchval(
            "SELECT coalesce(max(seq), 0) + 1 FROM release_records WHERE workflow = $1",
            parts.workflow,
        )
        is_known = await unit.conn.fetchval(
            "SELECT EXISTS (SELECT FROM policies WHERE policy_hash = $1)", parts.hash
        )
        if not is_known:
            policy = {"policy_hash": parts.hash, **asdict(parts)}
            unit.add(tables.policies, [policy | {"created_at": now, "author": author}])
        row: dict[str, Any] = {
            "workflow": parts.workflow,
            "seq": seq,
            "policy_hash": parts.hash,
            "bundle_digest": parts.bundle_digest,
            "author": author,
            "approver": approver,
            "reason": reason,
            "created_at": now,
        }
        row["mac"] = _mac(row, keyring.seal_keys[keyring.seal_key_id])
        unit.add(tables.release_records, [row])
        detail = {"seq": seq, "bundle_digest": parts.bundle_digest, "reason": reason}
        subject = f"{parts.workflow}/{parts.hash}"
        unit.add(
            tables.system_audit,
            [entry(author, "release.installed", subject, detail | {"approver": approver})],
        )
    return _release(row)


async def workflow_version(db: Database, release: Release) -> str:
    """The address of the workflow version that the released policy is made of."""
    policies = tables.policies
    query = select(policies.c.workflow_version)
    async with db.read() as conn:
        found = await conn.execute(query.where(policies.c.policy_hash == release.policy_hash))
        return found.scalar_one()


async def current(db: Database, keyring: Keyring) -> dict[str, Release | ForgedRelease]:
    """The newest record of every workflow, or what is wrong with it."""
    table = tables.release_records
    query = select(table).ext(distinct_on(table.c.workflow))
    query = query.order_by(table.c.workflow, table.c.seq.desc())
    async with db.read() as conn:
        rows = [dict(row) for row in (await conn.execute(query)).mappings()]
    return {row["workflow"]: _checked(row, keyring) for row in rows}


def _checked(row: Mapping[str, Any], keyring: Keyring) -> Release | ForgedRelease:
    if any(hmac.compare_digest(row["mac"], _mac(row, k)) for k in keyring.seal_keys.values()):
        return _release(row)
    return ForgedRelease(
        hint="Find who wrote it with `tiebreak audit verify`, then install a policy anew.",
        workflow=row["workflow"],
        seq=row["seq"],
    )


def _mac(row: Mapping[str, Any], key: bytes) -> bytes:
    covered = {name: row[name] for name in Release.__slots__}
    content = canonical(tables.release_records, covered)
    return hmac.digest(key, b"tiebreak release 1\n" + content, "sha256")


def _release(row: Mapping[str, Any]) -> Release:
    return Release(**{name: row[name] for name in Release.__slots__})


# Held to the end, so that no generation takes over between this look and the record.
_GENERATION = "SELECT history_generation FROM workflow_clocks WHERE workflow = $1 FOR SHARE"
