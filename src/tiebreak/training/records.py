"""Reading training runs: those that wait or run, and the records of those that ended."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import RowMapping, Select, Text, cast, func, select, tuple_

from tiebreak.store.database import Database
from tiebreak.store.tables import ml_training_runs
from tiebreak.training import turns
from tiebreak.training.runs import UnknownRun
from tiebreak.training.turns import Turn

Row = dict[str, Any]
Position = tuple[datetime, uuid.UUID]  # of an ended run in a list: its start and id

_C = ml_training_runs.c


async def current(db: Database, workflow: str | None = None) -> list[Row]:
    """The runs that wait or run, of this workflow or of all, oldest first."""
    async with db.connection() as conn:
        return [
            waiting(turn)
            for turn in await turns.everyone(conn)
            if workflow in (None, turn.workflow)
        ]


async def ended(
    db: Database, workflow: str | None = None, *, after: Position | None = None, limit: int = 50
) -> list[Row]:
    """Runs that ended, newest first, at most `limit` from behind `after` on."""
    query = select(ml_training_runs).order_by(_C.started_at.desc(), _C.run_id.desc()).limit(limit)
    if workflow is not None:
        query = query.where(_C.workflow == workflow)
    if after is not None:
        query = query.where(tuple_(_C.started_at, _C.run_id) < after)
    return await _rows(db, query)


async def get(db: Database, run_id: uuid.UUID) -> Row:
    """One run, whether it waits, runs or has ended. Raises UnknownRun."""
    found = await _rows(db, select(ml_training_runs).where(_C.run_id == run_id))
    if found:
        return found[0]
    async with db.connection() as conn:
        turn = await turns.find(conn, run_id)
    if turn is not None:
        return waiting(turn)
    found = await _rows(db, select(ml_training_runs).where(_C.run_id == run_id))  # ended just now
    if not found:
        raise UnknownRun(hint="`tiebreak training list` lists them.", run_id=str(run_id))
    return found[0]


async def named(db: Database, start: str) -> uuid.UUID:
    """The id that begins with these digits. Raises UnknownRun where none or more do."""
    async with db.connection() as conn:
        ids = [turn.run_id for turn in await turns.everyone(conn)]
    query = select(_C.run_id).where(func.starts_with(cast(_C.run_id, Text), start.lower()))
    async with db.read() as conn:
        ids += list((await conn.execute(query)).scalars())
    found = {each for each in ids if str(each).startswith(start.lower())}
    if len(found) != 1:
        many = f"{len(found)} training runs have ids that begin with" if found else "No run has id"
        raise UnknownRun(f"{many} {start!r}.", hint="`tiebreak training list` lists them.")
    return found.pop()


def waiting(turn: Turn) -> Row:
    """A run that waits or runs, in the shape of one that ended."""
    request, data = turn.request, turn.told.data
    return {
        "run_id": str(turn.run_id),
        "workflow": turn.workflow,
        "workflow_version": request.workflow_version,
        "state": turn.state,
        "step": turn.told.step,
        "share": turn.told.share,
        "cancelled_by": turn.cancelled_by,
        "author": request.author,
        "reason": request.reason,
        "started_at": turn.started_at,
        "finished_at": None,
        "seed": request.parameters.seed,
        "parameters": {
            **(data["parameters"] if data else request.asked),
            "known_by": request.known_by,
        },
        "data_hash": data["data_hash"] if data else None,
        "bundle_digest": None,
        "metrics": {},
        "versions": {},
    }


def _ended(row: RowMapping) -> Row:
    metrics = orjson.loads(row["metrics"])
    kept = ("workflow", "workflow_version", "author", "reason", "started_at", "finished_at", "seed")
    return {
        "run_id": str(row["run_id"]),
        "state": row["result"],
        "step": metrics.get("step"),
        "share": None,
        "cancelled_by": metrics.get("cancelled_by"),
        **{name: row[name] for name in kept},
        "parameters": orjson.loads(row["parameters"]),
        "data_hash": row["data_hash"],
        "bundle_digest": row["bundle_digest"],
        "metrics": metrics,
        "versions": orjson.loads(row["versions"]),
    }


async def _rows(db: Database, query: Select[Any]) -> list[Row]:
    async with db.read() as conn:
        return [_ended(row) for row in (await conn.execute(query)).mappings()]
