"""Year partitions of the large tables, created ahead of the tickets that need them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

PARTITIONED: Final = ("tickets", "decisions", "ml_shadow_scores")
YEARS_AHEAD: Final = 2


async def ensure(
    connection: asyncpg.Connection | PoolConnectionProxy, years: Iterable[int]
) -> tuple[str, ...]:
    """Create the partitions of these years (UTC) where they are missing; the names of new ones.

    The app role may do this: the statement runs as the owner and can do nothing else.
    """
    created: list[str] = []
    for year in sorted(set(years)):
        for table in PARTITIONED:
            name = await connection.fetchval("SELECT ensure_partition($1, $2)", table, year)
            created += [name] if name else []
    return tuple(created)


def years_ahead(now: datetime) -> range:
    """The years whose partitions must exist now: this year and the next ones."""
    return range(now.year, now.year + YEARS_AHEAD + 1)


async def existing(connection: asyncpg.Connection | PoolConnectionProxy) -> dict[str, list[str]]:
    """The partitions of each partitioned table, in order of name."""
    rows = await connection.fetch(
        """
        SELECT inhparent::regclass::text AS parent, inhrelid::regclass::text AS name
        FROM pg_inherits WHERE inhparent::regclass::text = ANY($1) ORDER BY 2
        """,
        list(PARTITIONED),
    )
    return {table: [row["name"] for row in rows if row["parent"] == table] for table in PARTITIONED}
