"""The window: which tickets of history a backtest decides, in spans that are decided one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tiebreak.errors import InvalidInput, NotFound
from tiebreak.store.database import Database

SPAN_TICKETS = 10_000

Key = tuple[str, int]  # ticket id and revision
Row = Mapping[str, Any]


class WindowEmpty(InvalidInput):
    """There is no ticket in this window."""

    code = "window_empty"


class WindowBeyondHistory(InvalidInput):
    """The window lies outside of what is stored."""

    code = "window_beyond_history"


class NoHistory(NotFound):
    """The workflow has no tickets yet."""

    code = "no_history"


@dataclass(frozen=True, slots=True)
class Window:
    """A range of `as_of`: from `since` on, up to but not including `until`."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the window, with about `SPAN_TICKETS` tickets; spans are numbered in time order."""

    number: int
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored about the tickets of a span: their rows, and the decisions on them."""

    tickets: Sequence[Row]
    decisions: Mapping[Key, Row]


async def window_of(
    db: Database, workflow: str, since: datetime | None, until: datetime | None
) -> Window:
    """The part of stored history that is asked for; None is its very begin or end.

    Raises `NoHistory`, `WindowEmpty` and `WindowBeyondHistory`.
    """
    async with db.connection() as conn:
        ends = await conn.fetchrow(_ENDS, workflow)
    if ends is None or ends["first"] is None:
        raise NoHistory(hint="Import history with `tiebreak import`.", workflow=workflow)
    first, last = ends["first"], ends["last"]
    if since is not None and until is not None and since >= until:
        raise WindowEmpty("The window ends before it begins.", hint="Give an earlier --since.")
    if (since is not None and since > last) or (until is not None and until <= first):
        raise WindowBeyondHistory(
            hint=f"Tickets are stored from {first:%Y-%m-%d} to {last:%Y-%m-%d}.", workflow=workflow
        )
    end = last + timedelta(microseconds=1)
    return Window(max(since or first, first), min(until or end, end))


async def spans_of(db: Database, workflow: str, window: Window) -> list[Span]:
    """The spans of the window; tickets of equal times stay together. Raises `WindowEmpty`."""
    arguments = (workflow, window.since, window.until, SPAN_TICKETS)
    async with db.connection() as conn:
        starts = [row["as_of"] for row in await conn.fetch(_STARTS, *arguments)]
    if not starts:
        raise WindowEmpty(hint="Choose a longer one.", workflow=workflow)
    starts = list(dict.fromkeys([window.since, *starts[1:]]))
    ends = [*starts[1:], window.until]
    return [Span(i, *ends) for i, ends in enumerate(zip(starts, ends, strict=True))]


async def read_span(
    db: Database, workflow: str, span: Span, window: Window, *, decided_by: datetime
) -> Stored:
    """The tickets of a span by their newest revision in the window, and what was decided."""
    async with db.connection() as conn:
        tickets = await conn.fetch(_TICKETS, workflow, span.since, span.until, window.until)
        decisions = await conn.fetch(_DECISIONS, workflow, span.since, span.until, decided_by)
    by_ordinal = {(row["ticket_id"], row["revision"]): dict(row) for row in decisions}
    return Stored([dict(row) for row in tickets], by_ordinal)  # of a ticket the last one stays


_ENDS = "SELECT min(as_of) AS first, max(as_of) AS last FROM tickets WHERE workflow = $1"

_STARTS = """
    SELECT as_of FROM (
        SELECT as_of, row_number() OVER (ORDER BY as_of) AS place
        FROM tickets WHERE workflow = $1 AND as_of >= $2 AND as_of < $3
    ) AS placed
    WHERE (place - 1) % $4::bigint = 0 ORDER BY as_of
"""

_TICKETS = """
    SELECT t.ticket_id, t.revision, t.as_of, t.ticket_hash, t.content, t.context
    FROM tickets t
    WHERE t.workflow = $1 AND t.as_of >= $2 AND t.as_of < $3 AND NOT EXISTS (
        SELECT FROM ticket_keys k
        WHERE k.workflow = t.workflow AND k.ticket_id = t.ticket_id
          AND k.revision > t.revision AND k.as_of < $4)
    ORDER BY t.as_of, t.ticket_id
"""

_DECISIONS = """
    SELECT ticket_id, revision, band, route, is_tie, decision_id FROM decisions
    WHERE workflow = $1 AND as_of >= $2 AND as_of < $3 AND decided_at <= $4
    ORDER BY ordinal
"""
