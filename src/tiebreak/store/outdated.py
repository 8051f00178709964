"""Tickets whose newest decision is by another policy or engine than the one at hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tiebreak.store.database import Database

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of `as_of`."""

    since: datetime  # included
    until: datetime  # not included


@dataclass(frozen=True, slots=True)
class Standard:
    """What a newest decision must be by to stand."""

    policy_hash: str
    fingerprint: str
    has_model: bool  # then a decision that was made while the model failed does not stand

    def holds(self, decision: Mapping[str, Any]) -> bool:
        """Whether this decision stands."""
        made_by = (decision["policy_hash"], decision["fingerprint"])
        is_failed = self.has_model and decision["model_status"] == "failed"
        return made_by == (self.policy_hash, self.fingerprint) and not is_failed


async def count(db: Database, workflow: str, window: Window, standard: Standard) -> int:
    """How many tickets `batches` would give."""
    async with db.connection() as conn:
        return await conn.fetchval(_COUNT, *_arguments(workflow, window, standard))


async def batches(
    db: Database, workflow: str, window: Window, standard: Standard, *, size: int
) -> AsyncGenerator[list[Row]]:
    """Newest revisions with content and a decision that does not stand, oldest first.

    Each row holds the ticket, and of its newest decision `ordinal`, `policy_hash`, `fingerprint`
    and `model_status`. Every batch is read anew, so decisions may be added in between.
    """
    after = (window.since, "")
    while True:
        arguments = (*_arguments(workflow, window, standard), *after, size)
        async with db.connection() as conn:
            rows = [dict(row) for row in await conn.fetch(_BATCH, *arguments)]
        if not rows:
            return
        yield rows
        after = (rows[-1]["as_of"], rows[-1]["ticket_id"])


def _arguments(workflow: str, window: Window, standard: Standard) -> tuple[Any, ...]:
    return (
        workflow,
        window.since,
        window.until,
        standard.policy_hash,
        standard.fingerprint,
        standard.has_model,
    )


# From `tickets`, whose primary key begins with `as_of`: one range of an index, in order.
_FOUND = """
    FROM tickets t
    CROSS JOIN LATERAL (
        SELECT d.ordinal, d.policy_hash, d.fingerprint, d.model_status
        FROM decision_keys k
        JOIN decisions d ON d.as_of = t.as_of AND d.decision_id = k.decision_id
        WHERE k.workflow = t.workflow AND k.ticket_id = t.ticket_id AND k.revision = t.revision
        ORDER BY k.ordinal DESC LIMIT 1) n
    WHERE t.workflow = $1 AND t.as_of >= $2 AND t.as_of < $3 AND t.content IS NOT NULL
      AND NOT EXISTS (
        SELECT FROM ticket_keys newer
        WHERE newer.workflow = t.workflow AND newer.ticket_id = t.ticket_id
          AND newer.revision > t.revision)
      AND ((n.policy_hash, n.fingerprint) <> ($4, $5) OR $6 AND n.model_status = 'failed')
"""

_COUNT = f"SELECT count(*) {_FOUND}"

_BATCH = f"""
    SELECT t.as_of, t.workflow, t.ticket_id, t.revision, t.ticket_hash, t.content, t.context, n.*
    {_FOUND}
      AND t.as_of >= $7 AND (t.as_of, t.ticket_id) > ($7, $8)
    ORDER BY t.as_of, t.ticket_id LIMIT $9
"""
