"""Events: what happened to releases, each in the journal too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import select

from tiebreak.release.states import Kind, State, after, state_of
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit

ACTIONS: Final = ("release.", "production.")  # how entries about releases begin in the journal


@dataclass(frozen=True, slots=True)
class Subject:
    """What events are about: a release, its workflow and its policy."""

    release_id: UUID
    workflow: str
    policy_hash: str

    def __str__(self) -> str:
        """The release as the journal names it: `workflow/policy_hash`."""
        return f"{self.workflow}/{self.policy_hash}"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a release."""

    seq: int
    kind: Kind
    actor: str
    at: datetime
    detail: Mapping[str, Any]


async def happen(
    unit: Unit,
    subject: Subject,
    kind: Kind,
    *,
    actor: str,
    detail: Mapping[str, object] | None = None,
) -> State:
    """Append an event and its entry in the journal, inside the workflow's release lock.

    Gives the state after it. Raises `NotInThisState`; `detail` never holds personal data.
    """
    rows = await unit.conn.fetch(_KINDS, subject.release_id)
    state = after(state_of(Kind(row["kind"]) for row in rows), kind)
    await unit.flush()  # the event's trigger asks for what it is about
    told = {**(detail or {}), "release": str(subject.release_id)}
    row = {
        "release_id": subject.release_id,
        "seq": len(rows) + 1,
        "kind": kind.value,
        "actor": actor,
        "at": datetime.now(UTC),
        "detail": orjson.dumps(dict(detail or {}), option=orjson.OPT_SORT_KEYS).decode(),
    }
    unit.add(tables.release_events, [row])
    unit.note(actor, f"release.{kind}", str(subject), told)
    await unit.flush()
    return state


async def state_now(unit: Unit, release_id: UUID) -> State:
    """The state as this unit sees it."""
    return state_of(Kind(row["kind"]) for row in await unit.conn.fetch(_KINDS, release_id))


async def events_of(db: Database, release_id: UUID) -> list[Event]:
    """All that happened to a release, oldest first."""
    c = tables.release_events.c
    query = select(c.seq, c.kind, c.actor, c.at, c.detail).where(c.release_id == release_id)
    async with db.read() as conn:
        rows = (await conn.execute(query.order_by(c.seq))).all()
    return [Event(r.seq, Kind(r.kind), r.actor, r.at, orjson.loads(r.detail)) for r in rows]


_KINDS = "SELECT kind FROM release_events WHERE release_id = $1 ORDER BY seq"
