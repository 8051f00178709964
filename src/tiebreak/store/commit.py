"""Commit: decisions become durable, each once, whoever computed it first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tiebreak.errors import IntegrityFailure
from tiebreak.store import tables
from tiebreak.store.unit import Connection, Unit
from tiebreak.store.writes import RecordsLost, Writes

Row = dict[str, Any]
Key = tuple[str, str, int, int]


def writes(rows: Sequence[Row]) -> Writes:
    """What stores decisions that nobody else has decided."""
    return {tables.decision_keys: rows, tables.decisions: rows}


async def commit(unit: Unit, rows: Sequence[Row]) -> list[Row]:
    """Store decisions and give them as they are stored, in the same order.

    Of several that decide the same (workflow, ticket, revision, ordinal) the first wins; the
    others get the winner's row. Raises `RecordsLost` when one's ticket is not there (any more).
    """
    if not rows:
        return []
    tickets = ([row[name] for row in rows] for name in _TICKET)
    if not await unit.conn.fetchval(_ARE_THERE, *tickets):
        raise RecordsLost(hint="Send it again.")
    mine = {_key(row): row for row in reversed(rows)}
    # In order of their keys, so that two that claim the same ones wait instead of deadlocking.
    ordered = [mine[key] for key in sorted(mine)]
    claimed = await unit.conn.fetch(
        _CLAIM, *([row[name] for row in ordered] for name in (*_KEY, "decision_id"))
    )
    won = {(row["workflow"], row["ticket_id"], row["revision"], row["ordinal"]) for row in claimed}
    unit.add(tables.decisions, [row for row in ordered if _key(row) in won])
    lost = [row for row in ordered if _key(row) not in won]
    stored = mine | {_key(row): row for row in await _stored(unit.conn, lost)}
    return [stored[_key(row)] for row in rows]


async def advance_decided_through(unit: Unit, workflow: str, through: datetime) -> None:
    """Note that all live tickets up to a moment, not after the workflow's clock, are decided.

    Whoever sees the clock at `last_as_of` sees every ticket up to it, as tickets commit in the
    order of their `as_of`, under the lock of that same row.
    """
    await unit.conn.execute(_ADVANCE, workflow, through)


async def _stored(conn: Connection, rows: Sequence[Row]) -> list[Row]:
    if not rows:
        return []
    found = await conn.fetch(
        _STORED, [row["as_of"] for row in rows], [row["decision_id"] for row in rows]
    )
    if len(found) < len(rows):
        raise IntegrityFailure("A decision is claimed in decision_keys and missing in decisions.")
    return [dict(row) for row in found]


def _key(row: Row) -> Key:
    return row["workflow"], row["ticket_id"], row["revision"], row["ordinal"]


_TICKET = ("workflow", "ticket_id", "revision")
_KEY = (*_TICKET, "ordinal")

_ARE_THERE = """
    SELECT bool_and(k.revision IS NOT NULL)
    FROM unnest($1::text[], $2::text[], $3::int[]) AS i (workflow, ticket_id, revision)
    LEFT JOIN ticket_keys k USING (workflow, ticket_id, revision)
"""

_CLAIM = """
    INSERT INTO decision_keys (workflow, ticket_id, revision, ordinal, decision_id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::uuid[])
    ON CONFLICT DO NOTHING
    RETURNING workflow, ticket_id, revision, ordinal
"""

_STORED = """
    SELECT d.* FROM unnest($1::timestamptz[], $2::uuid[]) AS i (as_of, decision_id)
    JOIN decisions d ON d.as_of = i.as_of AND d.decision_id = i.decision_id
"""

_ADVANCE = """
    UPDATE workflow_clocks SET decided_through = $2
    WHERE workflow = $1 AND decided_through < $2
"""
