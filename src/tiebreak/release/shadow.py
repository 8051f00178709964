"""Shadow: a candidate decides what production decides, and nobody acts on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from tiebreak.audit.lanes import Lane
from tiebreak.core.features import FeaturePlan
from tiebreak.core.workflow import Workflow
from tiebreak.errors import Conflict, InvalidInput
from tiebreak.registry import records
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.release.events import Subject, happen, state_now
from tiebreak.release.releases import (
    Office,
    Release,
    check_builds,
    check_current,
    get,
    stop_canary,
)
from tiebreak.release.states import Kind, State
from tiebreak.settings import Keyring
from tiebreak.store import kept, shadows
from tiebreak.store.database import Database

SYSTEM = "system"
SHADOWED = (State.SHADOW, State.CANARY, State.HELD, State.READY)


class NotReady(Conflict):
    """The candidate cannot decide stored tickets."""

    code = "candidate_not_ready"


class ShareOutOfRange(InvalidInput):
    """A share of the tickets is more than 0 and at most 1."""

    code = "share_out_of_range"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A candidate that shall score now, and which share of the tickets."""

    subject: Subject
    share: float


@dataclass(frozen=True, slots=True)
class Status:
    """Where a shadow stands."""

    release: Release
    share: float | None  # None: it was never started
    through: datetime | None
    scored: int
    lag_seconds: float | None
    tickets_per_second: float | None
    seconds_per_ticket: float | None
    error: dict[str, Any] | None  # why it was quarantined


async def start(
    office: Office,
    release_id: UUID,
    *,
    actor: str,
    share: float = 1.0,
    since: datetime | None = None,
) -> Release:
    """Let a candidate score tickets: from now on, from where it was stopped, or from `since` on.

    Raises `NoSuchRelease`, `NotInThisState`, `ProductionMoved`, `ModelUnfit`, `NotReady`.
    """
    if not 0 < share <= 1:
        raise ShareOutOfRange(hint="0.1 is every tenth ticket, by its id.", share=share)
    release = await get(office.db, release_id)
    parts = await office.library.parts(release.policy_hash)
    await check_builds(office.library, parts)
    await check_ready(office.db, office.library, release)
    detail = {"share": share, "since": None if since is None else since.isoformat()}
    async with office.lane.unit() as unit:
        await check_current(unit, release)
        await happen(unit, release.subject, Kind.SHADOW_STARTED, actor=actor, detail=detail)
        await shadows.begin(unit.conn, release_id, release.workflow, since)
    return await get(office.db, release_id)


async def stop(office: Office, release_id: UUID, *, actor: str, reason: str) -> Release:
    """Let it score no more; its scores stay. Raises `NoSuchRelease` and `NotInThisState`."""
    release = await get(office.db, release_id)
    async with office.lane.unit() as unit:
        await records.lock(unit, release.workflow)
        detail = {"reason": reason}
        await happen(unit, release.subject, Kind.SHADOW_STOPPED, actor=actor, detail=detail)
    return await get(office.db, release_id)


async def quarantine(
    lane: Lane, keyring: Keyring, release: Release, *, cause: str, message: str
) -> bool:
    """Take a candidate out of shadow and canary because of what it did; False: it is out already.

    `message` never holds personal data.
    """
    async with lane.unit() as unit:
        await records.lock(unit, release.workflow)
        if await state_now(unit, release.release_id) not in SHADOWED:
            return False
        await stop_canary(unit, keyring, release, actor=SYSTEM)
        detail = {"cause": cause, "message": message}
        await happen(unit, release.subject, Kind.QUARANTINED, actor=SYSTEM, detail=detail)
    return True


async def assignments(db: Database) -> list[Assignment]:
    """The candidates that shall score now: in shadow or later, beside the same production."""
    async with db.connection() as conn:
        rows = await conn.fetch(_ASSIGNMENTS, [state.value for state in SHADOWED])
    return [
        Assignment(
            Subject(row["release_id"], row["workflow"], row["policy_hash"]),
            orjson.loads(row["detail"]).get("share", 1.0),
        )
        for row in rows
    ]


async def status(db: Database, release: Release) -> Status:
    """Where a shadow stands."""
    async with db.connection() as conn:
        rows = await conn.fetch(_TOLD, release.release_id)
    found: dict[str, str] = {row["kind"]: row["detail"] for row in rows}
    done = await shadows.progress(db, release.release_id)
    started = found.get(Kind.SHADOW_STARTED)
    share = None if started is None else orjson.loads(started).get("share", 1.0)
    quarantined = found.get(Kind.QUARANTINED) if release.state is State.QUARANTINED else None
    error = None if quarantined is None else orjson.loads(quarantined)
    if done is None:
        return Status(release, share, None, 0, None, None, None, error)
    pace = await shadows.pace(db, release.workflow, release.policy_hash, done.through)
    lag = 0.0
    if pace.waiting_since is not None:
        lag = max(0.0, (datetime.now(UTC) - pace.waiting_since).total_seconds())
    return Status(
        release,
        share,
        done.through,
        done.scored,
        lag,
        pace.tickets_per_second,
        pace.seconds_per_ticket,
        error,
    )


async def check_ready(db: Database, library: PolicyLibrary, release: Release) -> None:
    """Raises `NotReady` when the history that the candidate reads is not kept."""
    recipe = await library.recipe(await library.parts(release.policy_hash))
    async with db.connection() as conn, conn.transaction():
        try:
            await kept.kept(conn, release.workflow, FeaturePlan(recipe.workflow).history)
        except (kept.HistoryNotReady, kept.EntityChanged) as error:
            lacking = await _lacking(conn, recipe.workflow)
            raise NotReady(
                f"The candidate reads history that is not kept: {', '.join(lacking)}.",
                hint=error.hint,
                release=str(release.release_id),
                lacking=lacking,
            ) from error


async def _lacking(conn: Any, workflow: Workflow) -> list[str]:
    """The features whose totals the serving history log does not keep."""
    generation = await conn.fetchval(_GENERATION, workflow.name) or 1
    stored = set(await kept.stored_slots(conn, workflow.name, generation))
    readings = FeaturePlan(workflow).history.readings
    return [r.feature.name for r in readings if any(s.id not in stored for s in r.slots)]


_GENERATION = "SELECT history_generation FROM workflow_clocks WHERE workflow = $1"

_ASSIGNMENTS = """
    SELECT r.release_id, r.workflow, r.policy_hash, (
        SELECT e.detail FROM release_events e
        WHERE e.release_id = r.release_id AND e.kind = 'shadow_started'
        ORDER BY e.seq DESC LIMIT 1) AS detail
    FROM releases r JOIN shadow_progress p ON p.release_id = r.release_id
    WHERE release_state(r.release_id) = ANY ($1::text[])
      AND r.base_seq = production_seq(r.workflow)
    ORDER BY r.created_at
"""

_TOLD = """
    SELECT DISTINCT ON (kind) kind, detail FROM release_events
    WHERE release_id = $1 AND kind IN ('shadow_started', 'quarantined')
    ORDER BY kind, seq DESC
"""
