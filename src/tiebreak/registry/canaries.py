"""Canary records: the audited, MACed word on which release decides which share of the tickets."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from tiebreak.audit.seals import canonical
from tiebreak.errors import IntegrityFailure
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit


class ForgedCanary(IntegrityFailure):
    """The newest canary record does not carry the MAC of any seal key."""

    code = "forged_canary"


@dataclass(frozen=True, slots=True)
class Canary:
    """The newest canary record of a workflow."""

    workflow: str
    seq: int
    release_id: UUID
    policy_hash: str
    bundle_digest: str | None
    production_seq: int
    percent: int  # of the tickets, by their hash; 0: none
    author: str
    created_at: datetime

    def decides_beside(self, seq: int) -> bool:
        """Whether it decides tickets while the newest release record has this number."""
        return self.percent > 0 and self.production_seq == seq


@dataclass(frozen=True, slots=True)
class Share:
    """The share of the tickets that a release shall decide beside a production."""

    workflow: str
    release_id: UUID
    policy_hash: str
    bundle_digest: str | None
    production_seq: int
    percent: int


async def append(unit: Unit, keyring: Keyring, share: Share, *, author: str) -> Canary:
    """Write the next canary record of the workflow, inside its release lock.

    The database refuses a share above 0 without an approval that stands.
    """
    seq = await unit.conn.fetchval(_NEXT, share.workflow)
    row: dict[str, Any] = {name: getattr(share, name) for name in Share.__slots__}
    row |= {"seq": seq, "author": author, "created_at": datetime.now(UTC)}
    row["mac"] = _mac(row, keyring.seal_keys[keyring.seal_key_id])
    unit.add(tables.canary_records, [row])
    await unit.flush()
    return _canary(row)


async def stop(unit: Unit, keyring: Keyring, workflow: str, *, author: str) -> Canary | None:
    """Let no canary of the workflow decide, inside its release lock; None when none did."""
    row = await unit.conn.fetchrow(_NEWEST, workflow)
    if row is None or not row["percent"]:
        return None
    share = Share(**{name: row[name] for name in Share.__slots__})
    return await append(unit, keyring, replace(share, percent=0), author=author)


async def newest(db: Database, keyring: Keyring) -> dict[str, Canary | ForgedCanary]:
    """The newest record of every workflow that has had a canary, or what is wrong with it."""
    async with db.connection() as conn:
        rows = [dict(row) for row in await conn.fetch(_ALL_NEWEST)]
    return {row["workflow"]: _checked(row, keyring) for row in rows}


def _checked(row: Mapping[str, Any], keyring: Keyring) -> Canary | ForgedCanary:
    if any(hmac.compare_digest(row["mac"], _mac(row, k)) for k in keyring.seal_keys.values()):
        return _canary(row)
    return ForgedCanary(
        hint="Find who wrote it with `tiebreak audit verify`; production decides meanwhile.",
        workflow=row["workflow"],
        seq=row["seq"],
    )


def _mac(row: Mapping[str, Any], key: bytes) -> bytes:
    content = canonical(tables.canary_records, {name: row[name] for name in Canary.__slots__})
    return hmac.digest(key, b"tiebreak canary 1\n" + content, "sha256")


def _canary(row: Mapping[str, Any]) -> Canary:
    return Canary(**{name: row[name] for name in Canary.__slots__})


_NEXT = "SELECT coalesce(max(seq), 0) + 1 FROM canary_records WHERE workflow = $1"
_ALL_NEWEST = "SELECT DISTINCT ON (workflow) * FROM canary_records ORDER BY workflow, seq DESC"
_NEWEST = "SELECT * FROM canary_records WHERE workflow = $1 ORDER BY seq DESC LIMIT 1"
