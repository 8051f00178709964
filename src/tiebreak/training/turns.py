"""Turns: of each workflow at most one training run waits or runs, on however many hosts.

The row of a workflow in `training_turns` says which run that is and how far it is. Who supervises
a running one holds the workflow's lock, an advisory lock of a database session, for as long as it
lives: the server frees it when the session is gone. So a row that says *running* while the lock is
free tells of a supervisor that died.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import orjson

from tiebreak.errors import Conflict
from tiebreak.store.database import Database
from tiebreak.store.unit import Connection
from tiebreak.training.ends import TurnLost
from tiebreak.training.process import Told
from tiebreak.training.requests import Request

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

State = Literal["queued", "running"]
_LOCKS = 5200419  # any fixed number: it sets these locks apart from others
_KEEPALIVE = "SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 5"


class TrainingBusy(Conflict):
    """A training run of this workflow waits or runs already."""

    code = "training_busy"


@dataclass(frozen=True, slots=True)
class Turn:
    """A run that waits or runs."""

    workflow: str
    run_id: uuid.UUID
    request: Request
    state: State
    asked_at: datetime
    started_at: datetime | None
    told: Told
    cancelled_by: str | None
    cancel_reason: str | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Turn:
        """The turn in a row."""
        return cls(
            workflow=row["workflow"],
            run_id=row["run_id"],
            request=Request.load(row["request"]),
            state=row["state"],
            asked_at=row["asked_at"],
            started_at=row["started_at"],
            told=Told(row["step"], row["share"], row["data"] and orjson.loads(row["data"])),
            cancelled_by=row["cancelled_by"],
            cancel_reason=row["cancel_reason"],
        )


@asynccontextmanager
async def held(db: Database, workflow: str) -> AsyncGenerator[PoolConnectionProxy | None]:
    """The workflow's lock, as the connection that holds it; None where another holds it."""
    async with db.connection() as conn:
        if not await conn.fetchval(_LOCK, workflow, _LOCKS):
            yield None
            return
        try:
            await conn.execute(_KEEPALIVE)  # a host that vanished loses the lock within a minute
            yield conn
        finally:
            if not conn.is_closed():
                await conn.fetchval(_UNLOCK, workflow, _LOCKS)


async def ask(conn: Connection, request: Request, state: State) -> Turn:
    """Give a new run the workflow's turn. Raises TrainingBusy; a `running` one needs the lock."""
    now = datetime.now(UTC)
    started_at = now if state == "running" else None
    row = await conn.fetchrow(
        _ASK, request.workflow, uuid.uuid4(), request.dump(), state, now, started_at
    )
    if row is None:
        raise await busy(conn, request.workflow)
    return Turn.of(row)


async def busy(conn: Connection, workflow: str) -> TrainingBusy:
    """The error that tells which run has the turn."""
    turn = await current(conn, workflow)
    if turn is None:
        return TrainingBusy(hint="Try again.", workflow=workflow)
    return TrainingBusy(
        f"A training run of {workflow} is {turn.state} already.",
        hint=f"Wait for it, or end it: `tiebreak training cancel {turn.run_id}`.",
        workflow=workflow,
        run_id=str(turn.run_id),
    )


async def current(conn: Connection, workflow: str) -> Turn | None:
    """The run that has the workflow's turn."""
    row = await conn.fetchrow(_CURRENT + " AND workflow = $1", workflow)
    return None if row is None else Turn.of(row)


async def find(conn: Connection, run_id: uuid.UUID) -> Turn | None:
    """The turn of this run, None where it has none."""
    row = await conn.fetchrow(_CURRENT + " AND run_id = $1", run_id)
    return None if row is None else Turn.of(row)


async def everyone(conn: Connection) -> list[Turn]:
    """All that wait or run, oldest first."""
    return [Turn.of(row) for row in await conn.fetch(_CURRENT + " ORDER BY asked_at, run_id")]


async def begin(conn: Connection, turn: Turn) -> Turn:
    """A queued run that runs from now on; needs the lock. Raises TurnLost."""
    row = await conn.fetchrow(_BEGIN, turn.workflow, turn.run_id, datetime.now(UTC))
    if row is None:
        raise TurnLost(run_id=str(turn.run_id))
    return Turn.of(row)


async def beat(conn: Connection, turn: Turn) -> Turn:
    """Tell how far a running one is, by its `told`; the turn as it is now. Raises TurnLost."""
    told = turn.told
    data = None if told.data is None else orjson.dumps(told.data).decode()
    row = await conn.fetchrow(
        _BEAT, turn.workflow, turn.run_id, datetime.now(UTC), told.step, told.share, data
    )
    if row is None:
        raise TurnLost(run_id=str(turn.run_id))
    return Turn.of(row)


async def cancel(conn: Connection, run_id: uuid.UUID, by: str, reason: str) -> Turn | None:
    """Ask for the end of a run that waits or runs; None where it does not. The first ask counts."""
    row = await conn.fetchrow(_CANCEL, run_id, by, reason)
    return None if row is None else Turn.of(row)


async def leave(conn: Connection, turn: Turn) -> None:
    """Give the turn back. Raises TurnLost where the run does not have it any more."""
    if await conn.fetchval(_LEAVE, turn.workflow, turn.run_id) is None:
        raise TurnLost(run_id=str(turn.run_id))


_LOCK = "SELECT pg_try_advisory_lock(hashtextextended($1, $2))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended($1, $2))"
_CURRENT = "SELECT * FROM training_turns WHERE run_id IS NOT NULL"
_ASK = """
    INSERT INTO training_turns AS t
        (workflow, run_id, request, state, asked_at, started_at, step, share)
    VALUES ($1, $2, $3, $4, $5, $6, 'start', 0)
    ON CONFLICT (workflow) DO UPDATE SET
        run_id = excluded.run_id, request = excluded.request, state = excluded.state,
        asked_at = excluded.asked_at, started_at = excluded.started_at, beat_at = NULL,
        step = excluded.step, share = excluded.share, data = NULL,
        cancelled_by = NULL, cancel_reason = NULL
    WHERE t.run_id IS NULL
    RETURNING *
"""
_BEGIN = """
    UPDATE training_turns SET state = 'running', started_at = $3
    WHERE workflow = $1 AND run_id = $2 AND state = 'queued'
    RETURNING *
"""
_BEAT = """
    UPDATE training_turns SET beat_at = $3, step = $4, share = $5, data = $6
    WHERE workflow = $1 AND run_id = $2
    RETURNING *
"""
_CANCEL = """
    UPDATE training_turns
    SET cancelled_by = coalesce(cancelled_by, $2),
        cancel_reason = CASE WHEN cancelled_by IS NULL THEN $3 ELSE cancel_reason END
    WHERE run_id = $1
    RETURNING *
"""
_LEAVE = """
    UPDATE training_turns SET run_id = NULL WHERE workflow = $1 AND run_id = $2
    RETURNING workflow
"""
