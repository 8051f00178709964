"""Single records held against their seals, where something is built on them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table

from tiebreak.audit.seals import NO_HEAD, Seal, leaf
from tiebreak.settings import Keyring
from tiebreak.store.unit import Connection


async def is_genuine(
    conn: Connection, keyring: Keyring, table: Table, row: Mapping[str, Any]
) -> bool:
    """Whether a seal by one of our keys commits to this stored row, given with all its columns.

    Whether its lane is whole is for `audit.verify` to say.
    """
    lane, seq, salt = row["lane"], row["seal_seq"], row["salt"]
    found = {each["seq"]: each for each in await conn.fetch(_SEALS, lane, seq)}
    if salt is None or seq not in found or (seq > 1 and seq - 1 not in found):
        return False
    stored = found[seq]
    key = keyring.seal_keys.get(stored["key_id"])
    if key is None:
        return False
    seal = Seal(lane, seq, stored["sealed_at"], stored["leaves"], stored["key_id"])
    previous = NO_HEAD if seq == 1 else found[seq - 1]["head"]
    is_ours = hmac.compare_digest(seal.head(previous, key), stored["head"])
    committed = seal.leaf(row["seal_position"])
    return is_ours and hmac.compare_digest(leaf(table, row, salt), committed)


_SEALS = """
    SELECT seq, sealed_at, leaves, head, key_id FROM audit_seals
    WHERE lane = $1 AND seq IN ($2::bigint, $2::bigint - 1)
"""
