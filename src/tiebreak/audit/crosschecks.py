"""Cross-checks: the keys that are not sealed agree with the sealed records they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import asyncpg

from tiebreak.store.partitions import PARTITIONED

# PostgreSQL 15 would merge by time alone, and compare all records of one moment with each other.
PLANNED = "SET LOCAL enable_mergejoin = off"


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """A query for what should not be; each row is a key."""

    table: str
    cause: str
    message: str
    query: str

    @property
    def statement(self) -> str:
        """The query, cut to as many rows as its argument says.

        It is planned as a whole: who plans for a few rows of a query that finds none, as this one
        does where all is well, compares every key with every record.
        """
        return f"WITH found AS MATERIALIZED ({self.query}) SELECT * FROM found LIMIT $1"  # noqa: S608


_SAME_TICKET = """
    t.as_of = k.as_of AND t.workflow = k.workflow AND t.ticket_id = k.ticket_id
    AND t.revision = k.revision
"""
_SAME_DECISION = """
    d.decision_id = k.decision_id AND d.workflow = k.workflow AND d.ticket_id = k.ticket_id
    AND d.revision = k.revision AND d.ordinal = k.ordinal
"""


def _year(table: str) -> CrossCheck:
    """A superuser can exchange two partitions, so that who asks by time misses what is there."""
    return CrossCheck(
        table,
        "record_misplaced",
        "Records stand in a partition of another year.",
        f"""
        SELECT p.name AS partition, p.year FROM (
            SELECT DISTINCT tableoid::regclass::text AS name,
                extract(year FROM as_of AT TIME ZONE 'UTC')::text AS year
            FROM {table}) p
        WHERE p.name <> '{table}_y' || p.year ORDER BY 1, 2
        """,  # noqa: S608
    )


def _bounds(table: str) -> CrossCheck:
    return CrossCheck(
        table,
        "partition_altered",
        "A partition does not hold the year that it is named after.",
        rf"""
        SELECT p.name AS partition FROM (
            SELECT c.relname::text AS name,
                substring(c.relname FROM '^{table}_y([0-9]{{4}})$')::int AS year,
                regexp_match(pg_get_expr(c.relpartbound, c.oid),
                    '^FOR VALUES FROM \(''([^'']+)''\) TO \(''([^'']+)''\)$') AS bounds
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = '{table}'::regclass) p
        WHERE (p.bounds[1]::timestamptz, p.bounds[2]::timestamptz) IS DISTINCT FROM
            (make_timestamptz(p.year, 1, 1, 0, 0, 0, 'UTC'),
             make_timestamptz(p.year + 1, 1, 1, 0, 0, 0, 'UTC'))
        ORDER BY 1
        """,  # noqa: S608
    )


CROSS_CHECKS = (
    *(check(table) for table in PARTITIONED for check in (_year, _bounds)),
    CrossCheck(
        "ticket_keys",
        "ticket_missing",
        "A ticket key has no ticket.",
        f"""
        SELECT k.workflow, k.ticket_id, k.revision FROM ticket_keys k
        WHERE NOT EXISTS (SELECT FROM tickets t WHERE {_SAME_TICKET} AND t.origin = k.origin)
        ORDER BY k.as_of, k.ticket_id
        """,  # noqa: S608
    ),
    CrossCheck(
        "tickets",
        "ticket_key_missing",
        "A ticket has no key.",
        f"""
        SELECT t.workflow, t.ticket_id, t.revision FROM tickets t
        WHERE NOT EXISTS (SELECT FROM ticket_keys k WHERE {_SAME_TICKET})
        ORDER BY t.as_of, t.ticket_id
        """,  # noqa: S608
    ),
    CrossCheck(
        "decision_keys",
        "decision_missing",
        "A decision key has no decision.",
        f"""
        SELECT k.workflow, k.ticket_id, k.revision, k.ordinal FROM decision_keys k
        WHERE NOT EXISTS (SELECT FROM decisions d WHERE {_SAME_DECISION})
        ORDER BY k.workflow, k.ticket_id, k.revision, k.ordinal
        """,  # noqa: S608
    ),
    CrossCheck(
        "decisions",
        "decision_key_missing",
        "A decision has no key.",
        f"""
        SELECT d.workflow, d.ticket_id, d.revision, d.ordinal FROM decisions d
        WHERE NOT EXISTS (SELECT FROM decision_keys k WHERE {_SAME_DECISION})
        ORDER BY d.as_of, d.decision_id
        """,  # noqa: S608
    ),
    CrossCheck(
        "decisions",
        "decided_ticket_missing",
        "A decision has no ticket.",
        f"""
        SELECT k.workflow, k.ticket_id, k.revision, k.ordinal FROM decisions k
        WHERE NOT EXISTS (SELECT FROM tickets t WHERE {_SAME_TICKET})
        ORDER BY k.as_of, k.decision_id
        """,  # noqa: S608
    ),
    CrossCheck(
        "workflow_clocks",
        "clock_behind",
        "The clock of a workflow is behind its tickets.",
        """
        SELECT k.workflow FROM (
            SELECT workflow, max(as_of) AS newest FROM ticket_keys GROUP BY workflow) k
        LEFT JOIN workflow_clocks c ON c.workflow = k.workflow
        WHERE c.last_as_of IS NULL OR c.last_as_of < k.newest ORDER BY 1
        """,
    ),
    CrossCheck(
        "workflow_clocks",
        "ticket_passed_over",
        "A ticket that the clock says was decided has no decision.",
        """
        SELECT k.workflow, k.ticket_id, k.revision FROM ticket_keys k
        JOIN workflow_clocks c ON c.workflow = k.workflow AND k.as_of <= c.decided_through
        WHERE k.origin = 'live' AND NOT EXISTS (
            SELECT FROM decision_keys d WHERE d.workflow = k.workflow
            AND d.ticket_id = k.ticket_id AND d.revision = k.revision)
        ORDER BY k.as_of, k.ticket_id
        """,
    ),
)


async def run(conn: Any, check: CrossCheck, most: int) -> list[dict[str, str]] | None:
    """The keys of what should not be, at most so many; None when the server fails at the query.

    A server whose catalogue was altered fails in ways of its own. `conn` is in a transaction.
    """
    try:
        async with conn.transaction():
            await conn.execute(PLANNED)
            rows = await conn.fetch(check.statement, most)
    except asyncpg.InternalServerError:
        return None
    return [{name: str(value) for name, value in row.items()} for row in rows]
