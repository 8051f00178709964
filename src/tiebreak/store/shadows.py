"""Shadow scores: tickets in the order in which they became known, and how far they are scored.

Tickets commit in the order of their `as_of`, under the lock of their workflow's clock: who sees the
clock at a moment sees every ticket up to it. So reading up to the clock leaves no gap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.unit import Connection

Row = dict[str, Any]
COLUMNS = tuple(str(column.name) for column in tables.ml_shadow_scores.columns)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a candidate has scored."""

    through: datetime  # all tickets with an `as_of` up to here
    scored: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Stretch:
    """All tickets of a workflow from behind a moment through another, oldest first."""

    after: datetime
    through: datetime
    tickets: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Pace:
    """How far behind a candidate is, and how fast."""

    waiting_since: datetime | None  # the oldest `as_of` that waits; None: none does
    tickets_per_second: float  # in the last minute
    seconds_per_ticket: float | None  # spent deciding; None: none was scored


async def progress(db: Database, release_id: UUID) -> Progress | None:
    """How far the candidate has scored; None when it never began."""
    async with db.connection() as conn:
        row = await conn.fetchrow(_PROGRESS, release_id)
    return None if row is None else Progress(*row)


async def begin(conn: Connection, release_id: UUID, workflow: str, since: datetime | None) -> None:
    """Score from behind `since` on, else from where it ended, else from now on."""
    await conn.execute(_BEGIN, release_id, workflow, since)


async def stretch(db: Database, workflow: str, after: datetime, size: int) -> Stretch:
    """The next tickets: about as many as `size`, because those of one `as_of` stay together."""
    async with db.connection() as conn:
        rows = await conn.fetch(_STRETCH, workflow, after, size)
    if not rows:
        return Stretch(after, after, ())
    tickets = [dict(row) for row in rows if row["ticket_id"] is not None]
    return Stretch(after, max(after, rows[0]["through"]), tickets)


async def keep(
    db: Database,
    release_id: UUID,
    workflow: str,
    policy_hash: str,
    passed: Stretch,
    rows: Sequence[Mapping[str, Any]],
) -> bool:
    """Store the scores of a stretch and that it is done, together; False when somebody else did.

    Scores of this policy that another release has stored are left as they are.
    """
    async with db.connection() as conn, conn.transaction():
        if not await conn.fetchval(_TAKE, release_id, passed.after, policy_hash):
            return False
        found = await conn.fetch(_THERE, workflow, policy_hash, passed.after, passed.through)
        there = {tuple(row) for row in found}
        new = [
            row for row in rows if (row["as_of"], row["ticket_id"], row["revision"]) not in there
        ]
        records = [tuple(row[name] for name in COLUMNS) for row in new]
        await conn.copy_records_to_table("ml_shadow_scores", records=records, columns=COLUMNS)
        await conn.execute(_ADVANCE, release_id, passed.through, len(rows))
        return True


async def pace(db: Database, workflow: str, policy_hash: str, through: datetime) -> Pace:
    """How far behind the candidate is, and how fast it was lately."""
    async with db.connection() as conn:
        row = await conn.fetchrow(_PACE, workflow, policy_hash, through)
    assert row is not None
    count, lately = row["count"], row["lately"]
    return Pace(
        waiting_since=row["waiting_since"],
        tickets_per_second=lately / max(row["span"], 1.0) if lately else 0.0,
        seconds_per_ticket=row["spent"] / count if count else None,
    )


_PROGRESS = "SELECT through, scored, updated_at FROM shadow_progress WHERE release_id = $1"

_BEGIN = """
    INSERT INTO shadow_progress (release_id, through, scored, updated_at)
    VALUES ($1, coalesce($3, (SELECT last_as_of FROM workflow_clocks WHERE workflow = $2),
                         clock_timestamp()), 0, clock_timestamp())
    ON CONFLICT (release_id) DO UPDATE
    SET through = coalesce($3, shadow_progress.through), updated_at = clock_timestamp()
"""

# One statement, so one snapshot.
_STRETCH = """
    SELECT edge.through, t.*
    FROM workflow_clocks c
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT n.as_of FROM tickets n
            WHERE n.workflow = $1 AND n.as_of > $2 AND n.as_of <= c.last_as_of
            ORDER BY n.as_of OFFSET $3::int - 1 LIMIT 1), c.last_as_of) AS through) AS edge
    LEFT JOIN tickets t
        ON t.workflow = $1 AND t.as_of > $2 AND t.as_of <= edge.through
    WHERE c.workflow = $1
    ORDER BY t.as_of, t.ticket_id, t.revision
"""

# The lock of the policy, because two releases may be of the same one.
_TAKE = """
    SELECT pg_advisory_xact_lock(hashtextextended('shadow:' || $3, 0)) IS NOT NULL
    FROM (SELECT FROM shadow_progress WHERE release_id = $1 AND through = $2 FOR UPDATE) AS mine
"""

_THERE = """
    SELECT as_of, ticket_id, revision FROM ml_shadow_scores
    WHERE workflow = $1 AND policy_hash = $2 AND as_of > $3 AND as_of <= $4
"""

_ADVANCE = """
    UPDATE shadow_progress
    SET through = $2, scored = scored + $3, updated_at = clock_timestamp()
    WHERE release_id = $1
"""

_PACE = """
    WITH newest AS (
        SELECT scored_at, seconds FROM ml_shadow_scores
        WHERE workflow = $1 AND policy_hash = $2 AND as_of <= $3
        ORDER BY as_of DESC LIMIT 2000)
    SELECT count(*) AS count, sum(seconds) AS spent,
           count(*) FILTER (WHERE scored_at > clock_timestamp() - interval '1 minute') AS lately,
           extract(epoch FROM clock_timestamp() - min(scored_at) FILTER (
               WHERE scored_at > clock_timestamp() - interval '1 minute'))::float8 AS span,
           (SELECT min(t.as_of) FROM tickets t
            WHERE t.workflow = $1 AND t.as_of > $3) AS waiting_since
    FROM newest
"""
