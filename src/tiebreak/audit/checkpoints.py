"""Checkpoints: signed heads of all lanes, kept where the database's masters cannot reach.

A seal cut off the end of a lane, or a lane that vanishes whole, leaves no gap in the database;
the newest checkpoint still names it.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.errors import IntegrityFailure
from tiebreak.settings import Keyring
from tiebreak.store.database import Database

LATELY = timedelta(days=1)
_DOMAIN = b"tiebreak checkpoint 1\n"


class CheckpointForged(IntegrityFailure):
    """A checkpoint is not what was signed."""

    code = "checkpoint_forged"


class LanesContradicted(IntegrityFailure):
    """The lanes no longer hold what an earlier checkpoint says."""

    code = "lanes_contradicted"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a lane had come: its last seal and that seal's head."""

    seq: int
    head: bytes


Heads = Mapping[uuid.UUID, Head]


async def write(db: Database, artifacts: ArtifactStore, keyring: Keyring) -> str:
    """Write the heads of all lanes as a new checkpoint and give its name.

    Raises `LanesContradicted` when the database lacks what the newest checkpoint names: a later
    checkpoint never covers up what an earlier one would show.
    """
    before = newest(artifacts, keyring)
    async with db.connection() as conn:
        rows = await conn.fetch(_HEADS)
        if before is not None:
            known = await conn.fetch(_AT, list(before), [found.seq for found in before.values()])
            at = {row["lane"]: row["head"] for row in known}
            for lane, found in before.items():
                if at.get(lane) != found.head:
                    raise LanesContradicted(hint="Run `tiebreak audit verify`.", lane=str(lane))
        await conn.execute(_FLUSH)  # no crash may take back what a checkpoint names
    now = datetime.now(UTC)
    lanes = {str(row["lane"]): [row["seq"], row["head"].hex()] for row in rows}
    body = orjson.dumps(
        {"written_at": now.isoformat(), "key_id": keyring.seal_key_id, "lanes": lanes},
        option=orjson.OPT_SORT_KEYS,
    ).decode()
    mac = _mac(body, keyring.seal_keys[keyring.seal_key_id])
    name = _name(now)
    artifacts.put_checkpoint(name, orjson.dumps({"body": body, "mac": mac.hex()}))
    return name


def newest(artifacts: ArtifactStore, keyring: Keyring) -> Heads | None:
    """The heads in the newest checkpoint, None when there is none. Raises `CheckpointForged`."""
    # There is one each minute, and a bucket lists them a thousand at a time, the oldest first.
    lately = _name(datetime.now(UTC) - LATELY)
    names = artifacts.list_checkpoints(after=lately) or artifacts.list_checkpoints()
    return _read(names[-1], artifacts.read_checkpoint(names[-1]), keyring) if names else None


def _read(name: str, data: bytes, keyring: Keyring) -> Heads:
    try:
        signed: dict[str, str] = orjson.loads(data)
        body, mac = signed["body"], bytes.fromhex(signed["mac"])
        # Any of our keys may have signed it: which one is said inside, and that is not read yet.
        if not any(hmac.compare_digest(mac, _mac(body, k)) for k in keyring.seal_keys.values()):
            raise CheckpointForged(name=name)
        lanes: dict[str, Any] = orjson.loads(body)["lanes"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointForged(name=name) from None
    return {uuid.UUID(lane): Head(seq, bytes.fromhex(head)) for lane, (seq, head) in lanes.items()}


def _name(moment: datetime) -> str:
    """What a checkpoint of this moment is called; names go in the order of time."""
    return f"{moment:%Y%m%dt%H%M%S.%f}z.json"


def _mac(body: str, key: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + body.encode(), "sha256")


_HEADS = """
    SELECT l.lane, s.seq, s.head FROM audit_lanes l CROSS JOIN LATERAL (
        SELECT seq, head FROM audit_seals WHERE lane = l.lane ORDER BY seq DESC LIMIT 1) s
"""

_FLUSH = "SELECT pg_logical_emit_message(true, 'checkpoint', '')"
"""A commit that is waited for, and with it all that was committed before."""

_AT = """
    SELECT lane, head FROM unnest($1::uuid[], $2::bigint[]) AS i (lane, seq)
    JOIN audit_seals USING (lane, seq)
"""
