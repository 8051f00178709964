"""Lanes: each writer's own chain of seals, one seal a unit of work."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import cache
from typing import cast

from sqlalchemy import Table

from tiebreak.audit.journal import entry
from tiebreak.audit.seals import NO_HEAD, SALT_BYTES, Seal, leaf, place, remainder
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.tables import system_audit
from tiebreak.store.unit import Connection


class SealedUnit:
    """One transaction of a lane; every row given to `add` is covered by its one seal."""

    def __init__(self, conn: Connection, lane: uuid.UUID, seq: int) -> None:
        self.conn = conn
        self._lane = lane
        self._seq = seq
        self._leaves: list[bytes] = []

    @property
    def leaves(self) -> bytes:
        """The leaves of all rows added so far, in order."""
        return b"".join(self._leaves)

    async def add(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        """COPY rows into a sealed table and commit to them in this unit's seal."""
        salts = os.urandom(SALT_BYTES * len(rows))
        sealed: list[Mapping[str, object]] = []
        for i, row in enumerate(rows):
            salt = salts[i * SALT_BYTES : (i + 1) * SALT_BYTES]
            sealed.append(
                {
                    **row,
                    "salt": salt,
                    "lane": self._lane,
                    "seal_seq": self._seq,
                    "seal_position": len(self._leaves),
                }
            )
            self._leaves.append(leaf(table, row, salt))
        await self.copy(table, sealed)

    async def copy(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        """COPY rows into a table that is not sealed; columns a row lacks become null."""
        if not rows:
            return
        columns = _names(table)
        await self.conn.copy_records_to_table(
            table.name,
            records=[tuple(map(row.get, columns)) for row in rows],
            columns=columns,
        )

    async def note(
        self, actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None
    ) -> None:
        """Add an entry to `system_audit`; `detail` never holds personal data."""
        await self.add(system_audit, [entry(actor, action, subject, detail)])

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

    def __init__(self, db: Database, writer: str, keyring: Keyring) -> None:
        self._db = db
        self._writer = writer
        self._key_id = keyring.seal_key_id
        self._key = keyring.seal_keys[keyring.seal_key_id]
        self._turn = asyncio.Lock()
        self._start_chain()

    @classmethod
    async def open(cls, db: Database, writer: str, keyring: Keyring) -> Lane:
        """A new lane for this writer; its row appears with its first seal."""
        return cls(db, writer, keyring)

    @property
    def id(self) -> uuid.UUID:
        """The lane's id; changes when the lane had to be given up."""
        return self._lane

    @asynccontextmanager
    async def unit(self, *, begin: str = "BEGIN") -> AsyncGenerator[SealedUnit]:
        """One transaction and its seal: COMMIT at the end of the block, ROLLBACK on an error.

        `begin` may set the transaction up further (`BEGIN; SET LOCAL …`) in the same round trip.
        """
        async with self._turn, self._db.connection() as pooled:
            conn = cast(Connection, pooled)
            await conn.execute(begin)
            unit = SealedUnit(conn, self._lane, self._seq + 1)
            try:
                yield unit
            except BaseException:
                await conn.execute("ROLLBACK")
                raise
            await self._finish(unit)

    async def _finish(self, unit: SealedUnit) -> None:
        leaves = unit.leaves
        if not leaves:
            await unit.conn.execute("COMMIT")
            return
        seal = Seal(self._lane, self._seq + 1, datetime.now(UTC), leaves, self._key_id)
        head = seal.head(self._head, self._key)
        try:
            if seal.seq == 1:
                await unit.conn.execute(_OPEN_LANE, seal.lane, self._writer, seal.sealed_at)
            await unit.conn.execute(
                _INSERT_SEAL, seal.lane, seal.seq, seal.sealed_at, leaves, head, seal.key_id
            )
            await unit.conn.execute("COMMIT")
        except BaseException:
            self._start_chain()
            raise
        self._seq, self._head = seal.seq, head

    def _start_chain(self) -> None:
        self._lane, self._seq, self._head = uuid.uuid4(), 0, NO_HEAD


@cache
def _names(table: Table) -> tuple[str, ...]:
    return tuple(str(column.name) for column in table.columns)


_OPEN_LANE = "INSERT INTO audit_lanes (lane, writer, opened_at) VALUES ($1, $2, $3)"

_INSERT_SEAL = """
    INSERT INTO audit_seals (lane, seq, sealed_at, leaves, head, key_id)
    VALUES ($1, $2, $3, $4, $5, $6)
"""
