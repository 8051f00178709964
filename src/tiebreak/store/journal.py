"""Reading the journal of changes, `system_audit`: newest first, by keyset."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select, tuple_

from tiebreak.store.database import Database
from tiebreak.store.tables import system_audit

Row = dict[str, Any]
Position = tuple[datetime, uuid.UUID]  # of an entry: its time and id

COLUMNS = ("audit_id", "at", "actor", "action", "subject", "detail")


@dataclass(frozen=True, slots=True)
class Filters:
    """Which entries to list; None leaves a column free."""

    actor: str | None = None  # a person, whatever their key, or `person/key_id`
    action: str | None = None
    actions: tuple[str, ...] = ()  # how the action begins; empty: any
    subject: str | None = None  # how the subject begins
    since: datetime | None = None  # included
    until: datetime | None = None  # not included


async def entries(
    db: Database, filters: Filters, *, after: Position | None = None, limit: int = 50
) -> list[Row]:
    """Entries from behind `after` on, at most `limit`; `detail` is JSON.

    The next page begins after the last row's (`at`, `audit_id`).
    """
    c = system_audit.c
    query = select(*(c[name] for name in COLUMNS))
    if filters.actor is not None:
        # starts_with instead of LIKE: nothing in a name is a wildcard.
        theirs = func.starts_with(c.actor, f"{filters.actor}/")
        query = query.where(or_(c.actor == filters.actor, theirs))
    if filters.action is not None:
        query = query.where(c.action == filters.action)
    if filters.actions:
        query = query.where(or_(*(func.starts_with(c.action, each) for each in filters.actions)))
    if filters.subject is not None:
        query = query.where(func.starts_with(c.subject, filters.subject))
    if filters.since is not None:
        query = query.where(c.at >= filters.since)
    if filters.until is not None:
        query = query.where(c.at < filters.until)
    if after is not None:
        query = query.where(c.at <= after[0], tuple_(c.at, c.audit_id) < after)
    query = query.order_by(c.at.desc(), c.audit_id.desc()).limit(limit)
    async with db.read() as conn:
        return [dict(zip(COLUMNS, row, strict=True)) for row in await conn.execute(query)]
