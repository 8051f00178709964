"""First revisions: a ticket stands in the history log by what its first revision said."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tiebreak.core.tickets import Schema
from tiebreak.store.unit import Connection


async def first_tickets(
    conn: Connection, workflow: str, ticket_ids: Collection[str], schema: Schema
) -> dict[str, dict[str, Any]]:
    """The values of the first revision by ticket id; none for unknown and for erased tickets."""
    if not ticket_ids:
        return {}
    rows = await conn.fetch(_FIRSTS, workflow, list(ticket_ids))
    return {row["ticket_id"]: schema.load(row["content"].encode()) for row in rows}


_FIRSTS = """
    SELECT i.ticket_id, t.content
    FROM unnest($2::text[]) AS i (ticket_id)
    JOIN ticket_keys k ON k.workflow = $1 AND k.ticket_id = i.ticket_id AND k.revision = 1
    JOIN tickets t ON t.workflow = $1 AND t.ticket_id = k.ticket_id AND t.revision = 1
        AND t.as_of = k.as_of
    WHERE t.content IS NOT NULL
"""
