"""Reading what is stored: decisions, tickets and their history, lists by keyset, streams."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, Table, and_, exists, func, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from tiebreak.store.database import Database
from tiebreak.store.decision_ids import as_of_of
from tiebreak.store.tables import (
    decision_keys,
    decisions,
    outcomes,
    ticket_keys,
    tickets,
)

Row = dict[str, Any]
Position = tuple[datetime, uuid.UUID]  # of a decision in a list: its `as_of` and id

Query = Select[*tuple[Any, ...]]

SEAL = frozenset({"salt", "lane", "seal_seq", "seal_position"})


@dataclass(frozen=True, slots=True)
class Filters:
    """Which decisions of a workflow to list; None leaves a column free."""

    band: int | None = None
    route: str | None = None
    is_tie: bool | None = None
    policy_hash: str | None = None
    since: datetime | None = None  # first `as_of`, included
    until: datetime | None = None  # end of `as_of`, not included


@dataclass(frozen=True, slots=True)
class TicketHistory:
    """Everything about a ticket, each list oldest first."""

    revisions: list[Row]
    decisions: list[Row]
    outcomes: list[Row]


async def decision(db: Database, decision_id: uuid.UUID) -> Row | None:
    """The decision with this id, or None; raises `NotADecisionId` for other UUIDs."""
    return await _one(
        db,
        _of(decisions).where(
            decisions.c.as_of == as_of_of(decision_id), decisions.c.decision_id == decision_id
        ),
    )


async def first_decision(db: Database, workflow: str, ticket_id: str, revision: int) -> Row | None:
    """The decision that answered this ticket revision, or None."""
    query = _decisions_on(workflow, ticket_id, revision)
    return await _one(db, query.where(decision_keys.c.ordinal == 1))


async def newest_decision(db: Database, workflow: str, ticket_id: str, revision: int) -> Row | None:
    """The last decision made on this ticket revision, or None."""
    query = _decisions_on(workflow, ticket_id, revision)
    return await _one(db, query.order_by(decision_keys.c.ordinal.desc()).limit(1))


async def ticket(db: Database, workflow: str, ticket_id: str, revision: int) -> Row | None:
    """The ticket revision as it was admitted, or None."""
    return await _one(
        db,
        _tickets().where(
            *_ticket(ticket_keys, workflow, ticket_id), ticket_keys.c.revision == revision
        ),
    )


async def history(db: Database, workflow: str, ticket_id: str) -> TicketHistory | None:
    """All revisions, decisions and outcomes of a ticket; None when there is no such ticket."""
    revisions = (
        _tickets().where(*_ticket(ticket_keys, workflow, ticket_id)).order_by(tickets.c.revision)
    )
    decided = (
        _of(decisions)
        .join(ticket_keys, decisions.c.as_of == ticket_keys.c.as_of)
        .where(
            *_ticket(ticket_keys, workflow, ticket_id),
            *_ticket(decisions, workflow, ticket_id),
            decisions.c.revision == ticket_keys.c.revision,
        )
        .order_by(decisions.c.revision, decisions.c.ordinal)
    )
    told = _of(outcomes).where(*_ticket(outcomes, workflow, ticket_id)).order_by(outcomes.c.ordinal)
    async with db.read() as conn:
        found = [await _all(conn, query) for query in (revisions, decided, told)]
    return TicketHistory(*found) if found[0] else None


async def list_decisions(
    db: Database,
    workflow: str,
    filters: Filters,
    *,
    after: Position | None = None,
    limit: int = 50,
) -> list[Row]:
    """Decisions of a workflow, newest first, from behind `after` on; at most `limit`.

    The next page begins after the last row's (`as_of`, `decision_id`).
    """
    d = decisions.c
    query = _of(decisions).where(d.workflow == workflow)
    equal = {
        d.band: filters.band,
        d.route: filters.route,
        d.is_tie: filters.is_tie,
        d.policy_hash: filters.policy_hash,
    }
    for column, value in equal.items():
        if value is not None:
            query = query.where(column == value)
    if filters.since is not None:
        query = query.where(d.as_of >= filters.since)
    if filters.until is not None:
        query = query.where(d.as_of < filters.until)
    if after is not None:
        # The first condition is implied; it lets Postgres leave out later partitions.
        query = query.where(d.as_of <= after[0], tuple_(d.as_of, d.decision_id) < after)
    query = query.order_by(d.as_of.desc(), d.decision_id.desc()).limit(limit)
    async with db.read() as conn:
        return await _all(conn, query)


async def newest_as_of(db: Database, workflow: str) -> datetime | None:
    """The workflow's clock; None before its first ticket."""
    async with db.connection() as conn:
        return await conn.fetchval(_CLOCK, workflow)


async def undecided(db: Database, workflow: str, *, through: datetime, limit: int) -> list[Row]:
    """Live ticket revisions up to this `as_of` that have no decision, oldest first."""
    async with db.connection() as conn:
        return [dict(row) for row in await conn.fetch(_UNDECIDED, workflow, through, limit)]


async def imported(
    db: Database, workflow: str, *, since: datetime, until: datetime, batch: int
) -> AsyncGenerator[list[Row]]:
    """Imported ticket revisions with content and without a decision, in batches, oldest first."""
    found = _imported(workflow, since, until)
    query = found.order_by(ticket_keys.c.as_of, ticket_keys.c.ticket_id)
    async with db.read() as conn:
        result = await conn.stream(query, execution_options={"yield_per": batch})
        async for rows in result.mappings().partitions(batch):
            yield [dict(row) for row in rows]


async def count_imported(db: Database, workflow: str, *, since: datetime, until: datetime) -> int:
    """How many ticket revisions `imported` gives."""
    found = _imported(workflow, since, until).with_only_columns(func.count())
    async with db.read() as conn:
        return (await conn.execute(found)).scalar_one()


def _imported(workflow: str, since: datetime, until: datetime) -> Select[Any]:
    is_decided = exists().where(
        *_ticket(decision_keys, ticket_keys.c.workflow, ticket_keys.c.ticket_id),
        decision_keys.c.revision == ticket_keys.c.revision,
    )
    return _tickets().where(
        ticket_keys.c.workflow == workflow,
        ticket_keys.c.origin != "live",
        ticket_keys.c.as_of >= since,
        ticket_keys.c.as_of < until,
        tickets.c.content.is_not(None),
        ~is_decided,
    )


async def scores(db: Database, workflow: str, *, since: datetime, until: datetime) -> list[Row]:
    """Of the first decision on each newest ticket revision: key, score, bands, points, route."""
    d = decisions.c
    has_newer = exists().where(
        *_ticket(ticket_keys, d.workflow, d.ticket_id), ticket_keys.c.revision > d.revision
    )
    query = (
        select(
            d.ticket_id, d.revision, d.as_of, d.score, d.rules_band, d.rules_points, d.band, d.route
        )
        .where(
            d.workflow == workflow,
            d.ordinal == 1,
            d.score.is_not(None),
            d.as_of >= since,
            d.as_of < until,
            ~has_newer,
        )
        .order_by(d.as_of, d.ticket_id)
    )
    async with db.read() as conn:
        return await _all(conn, query)


async def pairs(
    db: Database,
    workflow: str | None = None,
    *,
    sample: int | None = None,
    seed: int = 0,
    batch: int = 1_000,
) -> AsyncGenerator[list[tuple[Row, Row]]]:
    """Decisions with the tickets they decided, in batches, in order of time.

    `sample` takes that many, spread evenly and repeatably; memory holds one batch. All
    batches come from one moment's view of the database.
    """
    query = (
        select(*_columns(decisions), *(c.label(f"ticket_{c.name}") for c in _columns(tickets)))
        .join(
            tickets,
            and_(*(decisions.c[name] == tickets.c[name] for name in _TICKET_KEY)),
        )
        .order_by(decisions.c.as_of, decisions.c.decision_id)
    )
    if workflow is not None:
        query = query.where(decisions.c.workflow == workflow)
    async with db.read() as conn:
        if sample is not None:
            query = query.where(await _thin(conn, workflow, sample, seed))
        result = await conn.stream(query, execution_options={"yield_per": batch})
        async for rows in result.partitions(batch):
            yield [_pair(row) for row in rows]


async def _thin(conn: AsyncConnection, workflow: str | None, sample: int, seed: int) -> Any:
    """A condition that holds for `sample` decisions, those of the smallest hashes of ids."""
    hashed = func.uuid_hash_extended(decisions.c.decision_id, seed)
    query = select(hashed).order_by(hashed).offset(sample - 1).limit(1)
    if workflow is not None:
        query = query.where(decisions.c.workflow == workflow)
    last = await conn.scalar(query)
    return true() if last is None else hashed <= last


def _pair(values: Sequence[Any]) -> tuple[Row, Row]:
    width = len(_columns(decisions))
    names = [[c.name for c in _columns(table)] for table in (decisions, tickets)]
    return (
        dict(zip(names[0], values[:width], strict=True)),
        dict(zip(names[1], values[width:], strict=True)),
    )


def _columns(table: Table) -> list[Any]:
    return [column for column in table.columns if column.name not in SEAL]


def _of(table: Table) -> Query:
    return select(*_columns(table))


def _tickets() -> Query:
    """Tickets by way of their keys, so that each lookup reads one partition."""
    return _of(tickets).join(
        ticket_keys, and_(*(tickets.c[name] == ticket_keys.c[name] for name in _TICKET_KEY))
    )


def _decisions_on(workflow: str, ticket_id: str, revision: int) -> Query:
    """All decisions on a ticket revision."""
    return (
        _of(decisions)
        .join(ticket_keys, decisions.c.as_of == ticket_keys.c.as_of)
        .join(decision_keys, decisions.c.decision_id == decision_keys.c.decision_id)
        .where(
            *_ticket(ticket_keys, workflow, ticket_id),
            *_ticket(decision_keys, workflow, ticket_id),
            ticket_keys.c.revision == revision,
            decision_keys.c.revision == revision,
        )
    )


def _ticket(table: Table, workflow: Any, ticket_id: Any) -> tuple[Any, Any]:
    return table.c.workflow == workflow, table.c.ticket_id == ticket_id


async def _one(db: Database, query: Query) -> Row | None:
    async with db.read() as conn:
        row = (await conn.execute(query)).mappings().one_or_none()
    return None if row is None else dict(row)


async def _all(conn: AsyncConnection, query: Query) -> list[Row]:
    return [dict(row) for row in (await conn.execute(query)).mappings()]


_TICKET_KEY = ("as_of", "workflow", "ticket_id", "revision")

# The looks for what was left ask these each second, where making a query anew is felt.
_CLOCK = "SELECT last_as_of FROM workflow_clocks WHERE workflow = $1"

_UNDECIDED = """
    SELECT t.*
    FROM ticket_keys k JOIN tickets t USING (as_of, workflow, ticket_id, revision)
    WHERE k.workflow = $1 AND k.origin = 'live' AND k.as_of <= $2
      AND k.as_of > (SELECT decided_through FROM workflow_clocks WHERE workflow = $1)
      AND NOT EXISTS (
          SELECT FROM decision_keys d
          WHERE (d.workflow, d.ticket_id, d.revision) = (k.workflow, k.ticket_id, k.revision)
      )
    ORDER BY k.as_of
    LIMIT $3
"""
