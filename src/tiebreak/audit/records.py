"""Streams over all that is sealed, in the order of lanes: memory holds a few rows of each table."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table

from tiebreak.audit.seals import PLACE_BYTES, TOMBSTONE_BYTES, sealed_columns
from tiebreak.store.tables import metadata

PREFETCH = 500
SEALED = tuple(table for table in metadata.sorted_tables if "seal_position" in table.columns)

Place = tuple[bytes, int, int]  # lane, seq, position


@dataclass(frozen=True, slots=True)
class Record:
    """A stored record of a sealed table."""

    table: Table
    row: Mapping[str, Any]

    @property
    def place(self) -> Place:
        """Where its leaf should stand."""
        return self.row["lane"].bytes, self.row["seal_seq"], self.row["seal_position"]

    @property
    def key(self) -> dict[str, str]:
        """Its primary key, as text."""
        return {c.name: str(self.row[c.name]) for c in self.table.primary_key.columns}


class Peekable:
    """An asynchronous stream whose next element can be looked at."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self._source = source
        self.next: Any = None  # None at the end

    async def advance(self) -> Any:
        """Step on and give the element that was next."""
        before, self.next = self.next, await anext(self._source, None)
        return before


async def records(conn: Any) -> AsyncGenerator[Record]:
    """All records of all sealed tables by place; `conn` is inside a transaction."""
    heap: list[tuple[Place, int, Record, AsyncIterator[Record]]] = []
    for number, table in enumerate(SEALED):
        stream = _of_table(conn, table)
        first = await anext(stream, None)
        if first is not None:
            heap.append((first.place, number, first, stream))
    heapq.heapify(heap)
    while heap:
        _, number, record, stream = heap[0]
        yield record
        following = await anext(stream, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following.place, number, following, stream))


async def _of_table(conn: Any, table: Table) -> AsyncGenerator[Record]:
    columns = ", ".join(
        f"r.{name}"
        for name in (*sealed_columns(table), "salt", "lane", "seal_seq", "seal_position")
    )
    more = _CONTENT_KEY if table.name == "tickets" else ""
    query = f"SELECT {columns}{more} FROM {table.name} r ORDER BY lane, seal_seq, seal_position"  # noqa: S608
    async for row in conn.cursor(query, prefetch=PREFETCH):
        yield Record(table, row)


async def tombstones(conn: Any) -> AsyncGenerator[tuple[Place, bytes]]:
    """All erased places with the hash of what is left there, by place."""
    async for row in conn.cursor(_TOMBSTONES, prefetch=PREFETCH):
        entry = row["entry"]
        lane, seq, position = entry[:16], entry[16:24], entry[24:PLACE_BYTES]
        yield (lane, int.from_bytes(seq), int.from_bytes(position)), entry[PLACE_BYTES:]


async def seals(conn: Any) -> AsyncGenerator[Any]:
    """All seals by lane and number, and whether their lane is registered."""
    async for row in conn.cursor(_SEALS, prefetch=PREFETCH):
        yield row


def lane_text(place: Place) -> str:
    """The lane of a place as it is written."""
    return str(uuid.UUID(bytes=place[0]))


_CONTENT_KEY = """, (
    SELECT k.content_hash FROM ticket_keys k
    WHERE k.workflow = r.workflow AND k.ticket_id = r.ticket_id AND k.revision = r.revision
) AS content_key"""

_TOMBSTONES = f"""
    SELECT substr(e.places, i * {TOMBSTONE_BYTES} + 1, {TOMBSTONE_BYTES}) AS entry
    FROM erasures e
    CROSS JOIN generate_series(0, length(e.places) / {TOMBSTONE_BYTES} - 1) AS i
    ORDER BY 1
"""  # noqa: S608

_SEALS = """
    SELECT s.lane, s.seq, s.sealed_at, s.leaves, s.head, s.key_id, l.lane IS NOT NULL AS is_open
    FROM audit_seals s LEFT JOIN audit_lanes l ON l.lane = s.lane
    ORDER BY s.lane, s.seq
"""
