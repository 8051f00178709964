"""Seals: what a record's leaf commits to, and how a lane's seals are chained and MACed.

A leaf is SHA-256 over the record's salt and its canonical bytes. A seal holds the leaves of one
unit of work; its head is a MAC, by a key that is not in the database, over the previous head of
the lane and everything in the seal. Who lacks the key can neither alter nor append.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import orjson
from sqlalchemy import DateTime, Double, LargeBinary, Table, Uuid

SEAL_COLUMNS = ("salt", "lane", "seal_seq", "seal_position")
LEAF_BYTES = 32
SALT_BYTES = 16
NO_HEAD = bytes(LEAF_BYTES)  # what stands before the first seal of a lane
PLACE_BYTES = 28
TOMBSTONE_BYTES = PLACE_BYTES + LEAF_BYTES

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DOMAIN = b"tiebreak seal 1\n"


@dataclass(frozen=True, slots=True)
class Seal:
    """One link of a lane: the leaves of the records of one unit of work, in order."""

    lane: uuid.UUID
    seq: int
    sealed_at: datetime
    leaves: bytes
    key_id: str

    def head(self, previous: bytes, key: bytes) -> bytes:
        """HMAC-SHA256 over the previous head and all that this seal holds, 32 bytes."""
        key_id = self.key_id.encode()
        fixed = struct.pack(
            ">16sqqH", self.lane.bytes, self.seq, micros(self.sealed_at), len(key_id)
        )
        return hmac.digest(key, _DOMAIN + fixed + key_id + previous + self.leaves, "sha256")

    def leaf(self, position: int) -> bytes:
        """The leaf at this position; empty when there is none."""
        return self.leaves[position * LEAF_BYTES : (position + 1) * LEAF_BYTES]

    @property
    def size(self) -> int:
        """How many records the seal commits to."""
        return len(self.leaves) // LEAF_BYTES


def micros(moment: datetime) -> int:
    """Microseconds since 1970 in UTC, exact; raises TypeError for a zone-less time."""
    return (moment - _EPOCH) // _MICROSECOND


def place(lane: uuid.UUID, seq: int, position: int) -> bytes:
    """Where a leaf stands, as 28 bytes that sort like (lane, seq, position)."""
    return struct.pack(">16sqi", lane.bytes, seq, position)


def canonical(table: Table, row: Mapping[str, object]) -> bytes:
    """The bytes a leaf commits to: the table's name and every column that is not null.

    Columns stand sorted by name and nulls are left out, so a nullable column that is added later
    leaves old leaves as they are. Floats are written as their bits, bytes as hex, times as
    microseconds.
    """
    name_of_table, encoders = _encoders(table)
    encoded = {
        name: value if encode is None else encode(value)
        for name, encode in encoders
        if (value := row.get(name)) is not None
    }
    return orjson.dumps([name_of_table, encoded])


def leaf(table: Table, row: Mapping[str, object], salt: bytes) -> bytes:
    """The 32 bytes by which a seal commits to this record."""
    return hashlib.sha256(salt + canonical(table, row)).digest()


def remainder(table: Table, row: Mapping[str, object]) -> bytes:
    """The 32 bytes by which a tombstone commits to what erasure leaves of a record."""
    return hashlib.sha256(b"erased\n" + canonical(table, row)).digest()


@cache
def sealed_columns(table: Table) -> tuple[str, ...]:
    """The columns a leaf covers: all but those that say where the leaf stands."""
    return tuple(sorted(str(c.name) for c in table.columns if c.name not in SEAL_COLUMNS))


@cache
def _encoders(table: Table) -> tuple[str, tuple[tuple[str, _Encoder | None], ...]]:
    columns = tuple((name, _encoder(table, name)) for name in sealed_columns(table))
    return str(table.name), columns


def _encoder(table: Table, column: str) -> _Encoder | None:
    kind = table.columns[column].type
    if isinstance(kind, DateTime):
        return micros
    if isinstance(kind, Double):
        return _bits
    if isinstance(kind, LargeBinary):
        return bytes.hex
    if isinstance(kind, Uuid):
        return str
    return None


def _bits(value: float) -> str:
    return struct.pack(">d", value).hex()


_Encoder = Callable[[Any], object]
