"""What the store holds already about the tickets and entities of an import."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.tickets import ticket_schema
from tiebreak.core.workflow import Workflow
from tiebreak.ingest.histories import Entities, Log
from tiebreak.ingest.intake import Intake
from tiebreak.ingest.prepared import microseconds
from tiebreak.ingest.timeline import NEVER, Stored, StoredEvent, StoredRevision
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.firsts import first_tickets
from tiebreak.store.kept import Kept, order_of, stored_slots
from tiebreak.store.keyed import entity_key


async def read_stored(db: Database, workflow: Workflow, intake: Intake) -> Stored:
    """All that is stored about the tickets that an intake names."""
    about = [event.ticket_id for event in intake.events]
    about += [feedback.ticket_id for feedback in intake.feedback]
    ids = list(dict.fromkeys([a.submission.ticket_id for a in intake.arrivals] + about))
    async with db.connection() as conn:
        last_as_of = await conn.fetchval(_CLOCK, workflow.name)
        revisions: dict[str, list[StoredRevision]] = {}
        for row in await conn.fetch(_REVISIONS, workflow.name, ids):
            revision = StoredRevision(row["revision"], row["content_hash"], row["as_of"])
            revisions.setdefault(row["ticket_id"], []).append(revision)
        events: dict[str, list[StoredEvent]] = {}
        for row in await conn.fetch(_EVENTS, workflow.name, ids):
            event = StoredEvent(row["ordinal"], row["kind"], row["content_hash"], row["given_at"])
            events.setdefault(row["ticket_id"], []).append(event)
        feedback: dict[str, list[tuple[str, datetime]]] = {}
        for row in await conn.fetch(_FEEDBACK, workflow.name, ids):
            feedback.setdefault(row["ticket_id"], []).append((row["reviewer"], row["given_at"]))
        firsts = await first_tickets(conn, workflow.name, list(revisions), ticket_schema(workflow))
    return Stored(last_as_of or NEVER, revisions, firsts, events, feedback)


async def read_logs(
    db: Database,
    keyring: Keyring,
    workflow: str,
    kept: Kept,
    entities: Mapping[str, Entities],
    stored: Stored,
) -> dict[str, Log]:
    """The log so far of these entities, in time order."""
    plan = kept.plan
    logs = {name: Log.empty(slots) for name, slots in plan.slots.items()}
    if stored.last_as_of == NEVER:
        return logs
    async with db.connection() as conn:
        order = order_of(plan, await stored_slots(conn, workflow, kept.generation)) or {}
        for name in plan.slots:
            secret, texts = keyring.entity_key, entities[name].texts
            codes = {entity_key(secret, workflow, name, t): code for code, t in enumerate(texts)}
            rows = await conn.fetch(_LOG, workflow, kept.generation, list(codes))
            if rows:
                logs[name] = _log(rows, codes, order[name])
    return logs


def _log(rows: list[Any], codes: Mapping[bytes, int], order: NDArray[np.intp]) -> Log:
    return Log(
        np.array([codes[row["entity_key"]] for row in rows], dtype=np.int64),
        microseconds([row["known_at"] for row in rows]),
        np.array([row["totals"] for row in rows], dtype=np.int64)[:, order],
    )


_CLOCK = "SELECT last_as_of FROM workflow_clocks WHERE workflow = $1"

_REVISIONS = """
    SELECT ticket_id, revision, content_hash, as_of FROM ticket_keys
    WHERE workflow = $1 AND ticket_id = ANY($2) ORDER BY ticket_id, revision
"""

_EVENTS = """
    SELECT ticket_id, ordinal, kind, content_hash, given_at FROM outcomes
    WHERE workflow = $1 AND ticket_id = ANY($2) ORDER BY ticket_id, ordinal
"""

_FEEDBACK = """
    SELECT ticket_id, reviewer, given_at FROM ml_feedback
    WHERE workflow = $1 AND ticket_id = ANY($2) ORDER BY ticket_id, ordinal
"""

_LOG = """
    SELECT entity_key, known_at, totals FROM history_log
    WHERE workflow = $1 AND generation = $2 AND entity_key = ANY($3) ORDER BY known_at
"""
