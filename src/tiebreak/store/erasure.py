"""Erasure: a ticket's content leaves; its leaves, its numbers and a tombstone stay."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table

from tiebreak.errors import Conflict, IntegrityFailure
from tiebreak.store import tables
from tiebreak.store.outcomes import TicketUnknown
from tiebreak.store.unit import Connection, Unit


class StillUndecided(Conflict):
    """The ticket is admitted and not yet decided."""

    code = "still_undecided"


class ErasureIncomplete(IntegrityFailure):
    """What was erased is not what was found to erase."""

    code = "erasure_incomplete"


async def erase(unit: Unit, workflow: str, ticket_id: str, *, actor: str, reason: str) -> int:
    """Erase all content about a ticket and give the number of records that lost theirs.

    Must come first in its unit: what is found and what is erased are seen by one snapshot. The
    tombstone names the leaf of each record and commits to what is left of it. Erasing again
    takes only what came since. Raises `TicketUnknown` and `StillUndecided`.
    """
    conn = unit.conn
    await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    await conn.execute(_ALONE)
    if not await conn.fetchval(_IS_KNOWN, workflow, ticket_id):
        raise TicketUnknown(ticket_id=ticket_id)
    if await conn.fetchval(_IS_UNDECIDED, workflow, ticket_id):
        raise StillUndecided(hint="Try again in a minute.", ticket_id=ticket_id)
    places = [place async for place in _tombstones(unit, conn, workflow, ticket_id)]
    if not places:
        return 0
    ordinal = await conn.fetchval(_NEXT_ORDINAL, workflow, ticket_id)
    row = {
        "workflow": workflow,
        "ticket_id": ticket_id,
        "ordinal": ordinal,
        "erased_at": datetime.now(UTC),
        "actor": actor,
        "reason": reason,
        "places": b"".join(places),
    }
    unit.add(tables.erasures, [row])
    detail = {"records": len(places), "reason": reason}
    unit.note(actor, "ticket.erased", f"{workflow}/{ticket_id}", detail)
    await unit.flush()  # the function demands the tombstone
    erased = await conn.fetchval("SELECT erase_ticket($1, $2)", workflow, ticket_id)
    if erased != len(places):
        raise ErasureIncomplete(
            hint="Run `tiebreak audit verify`.", found=len(places), erased=erased
        )
    return len(places)


async def not_erased(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Those of these rows about ticket revisions whose ticket has its content.

    No ticket is erased from then on until the transaction ends: what it stores about them is
    not missed by an erasure.
    """
    await conn.execute(_ALONE)
    erased = await conn.fetch(_ERASED, *([row[name] for row in rows] for name in _TICKET))
    gone = {tuple(row[name] for name in _TICKET) for row in erased}
    return [row for row in rows if tuple(row[name] for name in _TICKET) not in gone]


async def erased_since(conn: Connection, workflow: str, since: datetime) -> list[str]:
    """The ids of the workflow's tickets that were erased at this moment or later."""
    rows = await conn.fetch(_SINCE, workflow, since)
    return [row["ticket_id"] for row in rows]


async def _tombstones(
    unit: Unit, conn: Connection, workflow: str, ticket_id: str
) -> AsyncGenerator[bytes]:
    for table, erasable, query in _ERASABLE:
        for row in await conn.fetch(query, workflow, ticket_id):
            yield unit.tombstone(table, {**dict(row), **dict.fromkeys(erasable)})


# The mode excludes itself and lets admissions pass. The table is the one that the app role may
# lock; LOCK takes no snapshot, so what is read behind it is read behind whoever had the lock.
_ALONE = "LOCK TABLE workflow_clocks IN SHARE UPDATE EXCLUSIVE MODE"

_TICKET = ("as_of", "workflow", "ticket_id", "revision")

_ERASED = """
    SELECT t.as_of, t.workflow, t.ticket_id, t.revision
    FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::int[])
        AS i (as_of, workflow, ticket_id, revision)
    JOIN tickets t USING (as_of, workflow, ticket_id, revision)
    WHERE t.content IS NULL
"""

_IS_KNOWN = "SELECT EXISTS (SELECT FROM ticket_keys WHERE workflow = $1 AND ticket_id = $2)"

_IS_UNDECIDED = """
    SELECT EXISTS (
        SELECT FROM ticket_keys k
        WHERE k.workflow = $1 AND k.ticket_id = $2 AND k.origin = 'live' AND NOT EXISTS (
            SELECT FROM decision_keys d
            WHERE d.workflow = k.workflow AND d.ticket_id = k.ticket_id
              AND d.revision = k.revision))
"""

_NEXT_ORDINAL = """
    SELECT coalesce(max(ordinal), 0) + 1 FROM erasures WHERE workflow = $1 AND ticket_id = $2
"""

_SINCE = """
    SELECT DISTINCT ticket_id FROM erasures WHERE workflow = $1 AND erased_at >= $2
    ORDER BY ticket_id
"""

# By way of the keys, whose times name the partitions.
_BY_KEY = """
    SELECT r.* FROM ticket_keys k
    JOIN {table} r ON r.as_of = k.as_of AND r.workflow = k.workflow
        AND r.ticket_id = k.ticket_id AND r.revision = k.revision
    WHERE k.workflow = $1 AND k.ticket_id = $2 AND r.salt IS NOT NULL
"""
_BY_TICKET = "SELECT * FROM {table} WHERE workflow = $1 AND ticket_id = $2 AND salt IS NOT NULL"

_ERASABLE: tuple[tuple[Table, tuple[str, ...], str], ...] = (
    (tables.tickets, ("content", "context"), _BY_KEY.format(table="tickets")),
    (tables.decisions, ("fired",), _BY_KEY.format(table="decisions")),
    (tables.outcomes, ("content",), _BY_TICKET.format(table="outcomes")),
    (tables.ml_feedback, ("note",), _BY_TICKET.format(table="ml_feedback")),
)
