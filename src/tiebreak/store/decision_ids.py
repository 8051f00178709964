"""Decision ids: UUIDs (version 7) whose time is the decision's `as_of`, to the microsecond.

The id follows from the decision's key, so a decision that is computed twice has one id, and a
lookup by id knows the one partition to read.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from datetime import UTC, datetime, timedelta

from tiebreak.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class NotADecisionId(InvalidInput):
    """This is not the id of a decision."""

    code = "not_a_decision_id"

    def __init__(self, given: object) -> None:
        super().__init__(hint="Send the `decision_id` of an answer.", decision_id=str(given)[:80])


def decision_id(
    as_of: datetime, workflow: str, ticket_id: str, revision: int, ordinal: int
) -> uuid.UUID:
    """The id of the decision with this key.

    48 bits of milliseconds since 1970, the version, 12 bits of remaining microseconds, the
    variant, and 62 bits of a SHA-256 over the key. `as_of` must lie in 1970 or later.
    """
    milliseconds, remainder = divmod((as_of - _EPOCH) // _MICROSECOND, 1_000)
    key = "\x1f".join((workflow, ticket_id, str(revision), str(ordinal)))
    (tail,) = struct.unpack(">Q", hashlib.sha256(key.encode()).digest()[:8])
    high = milliseconds << 16 | 0x7000 | remainder
    low = 1 << 63 | (tail & (1 << 62) - 1)
    return uuid.UUID(int=high << 64 | low)


def as_of_of(identifier: uuid.UUID) -> datetime:
    """The `as_of` in a decision's id; raises `NotADecisionId` for any other UUID."""
    high = identifier.int >> 64
    milliseconds, remainder = high >> 16, high & 0xFFF
    if identifier.version != 7 or remainder > 999:
        raise NotADecisionId(identifier)
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds, microseconds=remainder)
    except OverflowError:
        raise NotADecisionId(identifier) from None
