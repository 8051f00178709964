"""Outcomes: what really happened, that a ticket was closed, that someone acted on it.

Each is an appended row with the time from which Tiebreak may use it, `known_at`: the next moment
of the workflow's clock. Closings and outcomes also go to the history log, on the entities of the
ticket's first revision and with its values, so that what has arrived is never less than what
was closed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import numpy as np
import polars as pl

from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import Schema
from tiebreak.core.totals import HistoryOverflow
from tiebreak.core.workflow import EventKind
from tiebreak.errors import Conflict, InvalidInput, NotFound
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.firsts import first_tickets
from tiebreak.store.history import Tick, keys_of, read, take, tick
from tiebreak.store.keyed import content_key
from tiebreak.store.ledger import Ledger
from tiebreak.store.unit import Connection, Unit

Row = dict[str, Any]
Kind = Literal["outcome", "closed", "acted"]


class TicketUnknown(NotFound):
    """There is no such ticket."""

    code = "ticket_unknown"


class TicketErased(Conflict):
    """The ticket was erased; nothing more can be told about it."""

    code = "ticket_erased"


class OutcomeInFuture(InvalidInput):
    """The time given lies in the future."""

    code = "outcome_in_future"


@dataclass(frozen=True, slots=True)
class Report:
    """What someone tells about a ticket; `values` are outcome fields in normal form."""

    ticket_id: str
    kind: Kind
    values: Mapping[str, Any]
    given_at: datetime | None = None  # when the sender knew it


@dataclass(frozen=True, slots=True)
class Recorded:
    """The report is stored, now or since an equal one came in before."""

    ordinal: int
    known_at: datetime
    is_new: bool


Result = Recorded | TicketUnknown | TicketErased | OutcomeInFuture | HistoryOverflow


@dataclass(slots=True)
class _Ticket:
    """What is known about one ticket: its first values, and rows of `outcomes` in order."""

    first: Mapping[str, Any] | None  # None once erased
    told: list[Row] = field(default_factory=list[Row])

    def same(self, kind: str, key: bytes, given_at: datetime | None) -> Row | None:
        """The row that says just this: the latest of its kind, or one given at that time."""
        of_kind = [row for row in self.told if row["kind"] == kind]
        for row in reversed(of_kind):
            is_same_time = given_at is not None and row["given_at"] == given_at
            if row["content_hash"] == key and (row is of_kind[-1] or is_same_time):
                return row
        return None

    def has(self, kind: str) -> bool:
        """Whether anything of this kind was told before."""
        return any(row["kind"] == kind for row in self.told)


@dataclass(frozen=True, slots=True)
class _Fresh:
    row: Row
    report: Report
    first: Mapping[str, Any]
    is_first: bool  # of its kind

    @property
    def ticket_id(self) -> str:
        return self.report.ticket_id


async def record(
    unit: Unit,
    workflow: str,
    plan: HistoryPlan,
    ticket_schema: Schema,
    outcome_schema: Schema,
    reports: Sequence[Report],
    *,
    actors: Sequence[str],
    received_at: datetime,
    keyring: Keyring,
    at: datetime | None = None,
) -> list[Result]:
    """Store reports in their order, all known from one new moment on; a result each.

    `at` demands this very moment (`ClockBehind` when it is not later than the last). The same
    report twice is one row. A result that is an error concerns its report alone. Raises
    `HistoryNotReady` for a plan with slots that the log lacks.
    """
    moment = await tick(unit.conn, workflow, plan, at=at)
    known = await _known(unit.conn, workflow, {r.ticket_id for r in reports}, ticket_schema)
    results: list[Result] = []
    fresh: list[_Fresh] = []
    for report, actor in zip(reports, actors, strict=True):
        ticket = known.get(report.ticket_id)
        if ticket is None:
            results.append(TicketUnknown(ticket_id=report.ticket_id))
        elif ticket.first is None:
            results.append(TicketErased(ticket_id=report.ticket_id))
        elif report.given_at is not None and report.given_at > moment.at:
            results.append(_in_future(report))
        else:
            content = outcome_schema.canonical(report.values)
            key = content_key(keyring.entity_key, hashlib.sha256(content).digest())
            same = ticket.same(report.kind, key, report.given_at)
            if same is None:
                row = {
                    "workflow": workflow,
                    "ticket_id": report.ticket_id,
                    "ordinal": len(ticket.told) + 1,
                    "kind": report.kind,
                    "known_at": moment.at,
                    "given_at": report.given_at,
                    "received_at": received_at,
                    "actor": actor,
                    "content": content.decode(),
                    "content_hash": key,
                }
                fresh.append(_Fresh(row, report, ticket.first, not ticket.has(report.kind)))
                ticket.told.append(row)
            row = same or ticket.told[-1]
            results.append(Recorded(row["ordinal"], row["known_at"], is_new=same is None))
    refused = await _write(unit, moment, (ticket_schema, outcome_schema), fresh, keyring)
    return [
        HistoryOverflow() if r.ticket_id in refused and isinstance(result, Recorded) else result
        for r, result in zip(reports, results, strict=True)
    ]


async def _write(
    unit: Unit,
    moment: Tick,
    schemas: tuple[Schema, Schema],
    fresh: list[_Fresh],
    keyring: Keyring,
) -> set[str]:
    """Write what is new and book it; the tickets whose totals would overflow, left out whole."""
    refused: set[str] = set()
    while fresh:
        frame = pl.concat(
            [
                schemas[0].frame([each.first for each in fresh]),
                schemas[1].frame([each.report.values for each in fresh]),
            ],
            how="horizontal",
        )
        keys = keys_of(moment.plan, frame, keyring.entity_key)
        ledger = Ledger.of(moment, await read(unit.conn, moment, keys))
        for kind in (EventKind.CLOSED, EventKind.OUTCOME):
            rows = [row for row, each in enumerate(fresh) if each.report.kind == kind.value]
            if not rows:
                continue
            is_first = np.array([fresh[row].is_first for row in rows], dtype=np.bool_)
            overflowed = ledger.book(kind, frame[rows], is_first, take(keys, rows))
            refused |= {fresh[rows[row]].ticket_id for row in overflowed}
        if not refused & {each.ticket_id for each in fresh}:
            ledger.write(unit)
            unit.add(tables.outcomes, [each.row for each in fresh])
            break
        fresh = [each for each in fresh if each.ticket_id not in refused]
    return refused


async def _known(
    conn: Connection, workflow: str, ticket_ids: set[str], schema: Schema
) -> dict[str, _Ticket]:
    rows = await conn.fetch(_TOLD, workflow, list(ticket_ids))
    firsts = await first_tickets(conn, workflow, ticket_ids, schema)
    known = {row["ticket_id"]: _Ticket(firsts.get(row["ticket_id"])) for row in rows}
    for row in rows:
        if row["ordinal"] is not None:
            known[row["ticket_id"]].told.append(dict(row))
    return known


def _in_future(report: Report) -> OutcomeInFuture:
    return OutcomeInFuture(
        hint="Send it when it has happened, with a time zone and a clock that is right.",
        ticket_id=report.ticket_id,
    )


_TOLD = """
    SELECT k.ticket_id, o.ordinal, o.kind, o.known_at, o.given_at, o.content_hash
    FROM ticket_keys k
    LEFT JOIN outcomes o ON o.workflow = k.workflow AND o.ticket_id = k.ticket_id
    WHERE k.workflow = $1 AND k.ticket_id = ANY($2) AND k.revision = 1
    ORDER BY o.ordinal
"""
