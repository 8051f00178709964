"""Lanes: each writer's own chain of seals, one seal a unit of work."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import cast

from asyncpg import UniqueViolationError
from sqlalchemy import Table

from tiebreak.audit.journal import entry
from tiebreak.audit.seals import NO_HEAD, SALT_BYTES, Seal, leaf, place, remainder
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.meanwhile import Meanwhile, during
from tiebreak.store.tables import audit_lanes, audit_seals, system_audit
from tiebreak.store.unit import Connection
from tiebreak.store.writes import STANDS, SealAt, Writes, insert, write

_NO_WAIT = "SET LOCAL synchronous_commit = off"


class SealedUnit:
    """One transaction of a lane; every sealed row it adds is covered by its one seal."""

    def __init__(self, conn: Connection, lane: uuid.UUID, seq: int) -> None:
        self.conn = conn
        self._lane = lane
        self._seq = seq
        self._leaves: list[bytes] = []
        self._writes: dict[Table, list[Mapping[str, object]]] = {}
        self.meanwhile: Meanwhile[object] | None = None  # beside the flush, then beside COMMIT
        self.seal: SealAt | None = None  # which covers the rows, once there is one

    @property
    def leaves(self) -> bytes:
        """The leaves of all rows added so far, in order."""
        return b"".join(self._leaves)

    def add(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        """Rows to be written when the unit ends; those of a sealed table get their leaves now."""
        writes = self._writes.setdefault(table, [])
        if "seal_position" not in table.columns:
            writes += rows
            return
        salts = os.urandom(SALT_BYTES * len(rows))
        for i, row in enumerate(rows):
            salt = salts[i * SALT_BYTES : (i + 1) * SALT_BYTES]
            writes.append(
                {
                    **row,
                    "salt": salt,
                    "lane": self._lane,
                    "seal_seq": self._seq,
                    "seal_position": len(self._leaves),
                }
            )
            self._leaves.append(leaf(table, row, salt))

    async def flush(self) -> None:
        """Write what was added, for statements of this unit that shall see it."""
        writes, self._writes = self._writes, {}
        await write(self.conn, writes)

    async def insert(self, after: SealAt | None = None) -> None:
        """Write what was added in one statement, which needs no transaction around it.

        With `after` only where that seal stands; else it raises `RecordsLost`.
        """
        await insert(self.conn, self._writes, after)

    def note(
        self, actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None
    ) -> None:
        """Add an entry to `system_audit`; `detail` never holds personal data."""
        self.add(system_audit, [entry(actor, action, subject, detail)])

    def tombstone(self, table: Table, row: Mapping[str, object]) -> bytes:
        """What a tombstone says of a stored record: its leaf's place, and a hash of what is left.

        `row` holds the record's seal columns, and null where erasure makes it so.
        """
        at = cast(
            "tuple[uuid.UUID, int, int]", (row["lane"], row["seal_seq"], row["seal_position"])
        )
        return place(*at) + remainder(table, row)


class Lane:
    """The seal chain of one writer in one process.

    A unit takes the lane for as long as it runs, so units of one lane follow each other; work
    that shall overlap uses lanes of its own. When it is uncertain whether a COMMIT took effect
    the chain is left where it is and the next unit starts a new one: a head that may or may not
    exist is never built on.
    """

    def __init__(
        self, db: Database, writer: str, keyring: Keyring, *, is_rehearsal: bool = False
    ) -> None:
        self._db = db
        self._is_rehearsal = is_rehearsal
        self._writer = writer
        self._key_id = keyring.seal_key_id
        self._key = keyring.seal_keys[keyring.seal_key_id]
        self._turn = asyncio.Lock()
        self._start_chain()

    @classmethod
    async def open(cls, db: Database, writer: str, keyring: Keyring) -> Lane:
        """A new lane for this writer; its row appears with its first seal."""
        return cls(db, writer, keyring)

    @classmethod
    def rehearsal(cls, db: Database, writer: str, keyring: Keyring) -> Lane:
        """A lane whose units do everything, past every check of the database, and keep nothing."""
        return cls(db, writer, keyring, is_rehearsal=True)

    @property
    def id(self) -> uuid.UUID:
        """The lane's id; changes when the lane had to be given up."""
        return self._lane

    @asynccontextmanager
    async def unit(
        self,
        *,
        begin: str = "BEGIN",
        waits: bool = True,
        meanwhile: Meanwhile[object] | None = None,
    ) -> AsyncGenerator[SealedUnit]:
        """One transaction and its seal: COMMIT at the end of the block, ROLLBACK on an error.

        `begin` may set the transaction up further (`BEGIN; SET LOCAL …`) in the same round trip.
        Unless it `waits`, a crash of the server may take it back until `lasted` is called.
        `meanwhile` is done while BEGIN is under way; of what the unit has to do meanwhile one step
        while its rows are written, and the next while COMMIT is.
        """
        async with self._taken() as conn:
            try:
                await during(conn.execute(begin if waits else f"{begin}; {_NO_WAIT}"), meanwhile)
                if self._is_unsure:
                    await self._make_sure(conn)
                unit = self._unit(conn)
                yield unit
                head = self._seal(unit)
                await during(unit.flush(), unit.meanwhile)
                if self._is_rehearsal:
                    await conn.execute("SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK")
                    return
            except BaseException:
                await conn.execute("ROLLBACK")
                raise
            try:
                await during(conn.execute("COMMIT"), unit.meanwhile)
            except BaseException:
                self._start_chain()
                raise
            self._advance(head)
            if head is not None:
                self._is_unsure = not waits

    def lasted(self, seal: SealAt) -> None:
        """What was committed up to this seal is on the disk, as something after it is."""
        if seal == (self._lane, self._seq):
            self._is_unsure = False

    async def append(
        self,
        writes: Writes,
        meanwhile: Meanwhile[object] | None = None,
        after: SealAt | None = None,
    ) -> bool:
        """Add rows and their seal in one statement that is its own transaction.

        Meant for a few rows: many go faster through `unit`. False when a row with such a key stands
        there already; then nothing was written. `meanwhile` is done while it is under way. With
        `after` they are added only where that seal stands; else it raises `RecordsLost`.
        """
        async with self._taken() as conn:
            unit = self._unit(conn)
            for table, rows in writes.items():
                unit.add(table, rows)
            head = self._seal(unit)
            try:
                await during(unit.insert(after), meanwhile)
            except UniqueViolationError:
                return False
            except BaseException:
                self._start_chain()
                raise
            self._advance(head)
            return True

    @asynccontextmanager
    async def _taken(self) -> AsyncGenerator[Connection]:
        async with self._turn, self._db.connection() as pooled:
            yield cast(Connection, pooled)

    def _unit(self, conn: Connection) -> SealedUnit:
        return SealedUnit(conn, self._lane, self._seq + 1)

    async def _make_sure(self, conn: Connection) -> None:
        """Start a new chain where a crash took the head of this one back."""
        if not await conn.fetchval(f"SELECT {STANDS}", self._lane, self._seq):
            self._start_chain()

    def _seal(self, unit: SealedUnit) -> bytes | None:
        """Add the seal over the unit's leaves, in its lane; its head, None without leaves."""
        leaves = unit.leaves
        if not leaves:
            return None
        seal = Seal(self._lane, self._seq + 1, datetime.now(UTC), leaves, self._key_id)
        head = seal.head(self._head, self._key)
        if seal.seq == 1:
            lane = {"lane": seal.lane, "writer": self._writer, "opened_at": seal.sealed_at}
            unit.add(audit_lanes, [lane])
        row = {
            "lane": seal.lane,
            "seq": seal.seq,
            "sealed_at": seal.sealed_at,
            "leaves": leaves,
            "head": head,
            "key_id": seal.key_id,
        }
        unit.add(audit_seals, [row])
        unit.seal = seal.lane, seal.seq
        return head

    def _advance(self, head: bytes | None) -> None:
        if head is not None:
            self._seq, self._head = self._seq + 1, head

    def _start_chain(self) -> None:
        self._lane, self._seq, self._head = uuid.uuid4(), 0, NO_HEAD
        self._is_unsure = False  # whether the last seal is on the disk
