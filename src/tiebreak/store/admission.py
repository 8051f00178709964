"""Admission: a batch of submissions becomes ticket revisions with one `as_of` and their context.

All of it happens in the caller's unit, under the workflow's history lock, in a fixed number of
statements whatever the batch holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import orjson
import polars as pl

from tiebreak.core.history import HistoryPlan, context_frame
from tiebreak.core.stored import Columns, StoredTicket, known_columns
from tiebreak.core.tickets import Schema, Submission
from tiebreak.core.totals import Flags, HistoryOverflow, Ints
from tiebreak.core.workflow import EventKind
from tiebreak.settings import Keyring
from tiebreak.store import revisions, tables
from tiebreak.store.firsts import first_tickets
from tiebreak.store.history import EntityKeys, Known, Question, Tick, keys_of, read, take, ticked
from tiebreak.store.kept import last_seen
from tiebreak.store.keyed import content_key, ticket_hash
from tiebreak.store.ledger import Ledger
from tiebreak.store.meanwhile import Meanwhile, during
from tiebreak.store.revisions import Existing, New, Numbered, RevisionConflict
from tiebreak.store.starts import Starts
from tiebreak.store.unit import Unit

Row = dict[str, Any]

BEGIN = "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan"
"""How the unit of a live batch begins: what it reads is small, and planning it anew costs most."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The submission is a new revision: `Admission.tickets[index]`, which duplicates share."""

    revision: int
    index: int


Result = Admitted | Existing | RevisionConflict | HistoryOverflow


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a batch: a result a submission, and the new ticket revisions."""

    as_of: datetime
    results: Sequence[Result]
    tickets: Sequence[StoredTicket]
    _fields: pl.DataFrame
    _context: Mapping[str, tuple[Ints, Flags]]

    def columns(self) -> Columns:
        """The tickets as the core takes them."""
        context = context_frame(self._context, len(self.tickets))
        return known_columns(self.tickets, self._fields, context)


@dataclass(frozen=True, slots=True)
class _Fresh:
    """The submissions of a batch that are new revisions, in order."""

    index: list[int]  # in the batch
    news: list[New]
    frame: pl.DataFrame
    keys: EntityKeys  # of the entities each ticket has: its context
    booked_on: EntityKeys  # of the entities its first revision has: its events

    def without(self, refused: set[int]) -> _Fresh:
        """Those that are left when these rows and all that build on them are not admitted."""
        keep = [row for row in range(len(self.index)) if row not in refused]
        return _Fresh(
            [self.index[row] for row in keep],
            [self.news[row] for row in keep],
            self.frame[keep],
            take(self.keys, keep),
            take(self.booked_on, keep),
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch of submissions as far as it can be worked on without the database."""

    plan: HistoryPlan
    schema: Schema
    submissions: Sequence[Submission]
    keyring: Keyring
    frame: pl.DataFrame
    keys: EntityKeys
    question: Question


def prepare(
    plan: HistoryPlan, schema: Schema, submissions: Sequence[Submission], keyring: Keyring
) -> Prepared:
    """Make a batch ready to be admitted: its columns, its entities, what is asked about them."""
    frame = schema.submitted(submissions)
    asked = last_seen(plan)
    keys = keys_of(asked, frame, keyring.entity_key)
    return Prepared(plan, schema, submissions, keyring, frame, keys, Question.of(asked, keys))


async def admit(
    unit: Unit,
    batch: Prepared,
    *,
    actors: Sequence[str],
    received_at: Sequence[datetime],
    starts: Starts,
    as_of: datetime | None = None,
    origin: str = "live",
) -> Admission:
    """Admit a batch; its members do not see each other, equal ones share one revision.

    A result that is an error concerns its submission alone. Raises `ClockBehind` when `as_of` is
    given and not later than the workflow's clock, `HistoryNotReady` for a plan with slots that
    the log lacks.
    """
    workflow, submissions = batch.plan.workflow.name, batch.submissions
    question = batch.question
    begins = await starts.read(unit.conn, workflow, question, as_of or datetime.now(UTC))
    if begins is not None:
        question = question.but(begins.totals)
    reading = unit.conn.fetchrow(
        _READ,
        workflow,
        as_of,
        *revisions.claims(submissions),
        *question.arguments(starts.booked_us),
    )
    identifying = Meanwhile.once(partial(_identified, batch))
    row = await during(reading, identifying)
    content_keys, hashes, contents = identifying.result()
    moment = await ticked(unit.conn, workflow, batch.plan, row, as_of)
    keys = batch.keys
    if moment.plan is not question.plan:  # the log keeps other slots, and may know other entities
        keys = keys_of(moment.plan, batch.frame, batch.keyring.entity_key)
    numbered = revisions.number(submissions, content_keys, revisions.stored(row))
    fresh = await _fresh(unit, moment, batch, numbered, keys)
    known: Known | None = None
    if fresh.booked_on is fresh.keys and moment.plan is question.plan:
        known = question.known(moment, row)
        if begins is not None:
            known = begins.complete(moment, known)
    if known is None:
        known = await read(unit.conn, moment, fresh.keys, fresh.booked_on)
    starts.follow(moment)
    ledger, fresh = _book(moment, known, fresh, submissions)

    values = moment.plan.context_values(known.of(fresh.keys))
    tickets = [
        StoredTicket(
            workflow=workflow,
            ticket_id=submissions[i].ticket_id,
            revision=new.revision,
            as_of=moment.at,
            ticket_hash=hashes[i],
            values=submissions[i].values,
            context=context,
        )
        for i, new, context in zip(
            fresh.index, fresh.news, _contexts(values, len(fresh.index)), strict=True
        )
    ]
    rows: list[Row] = [
        {
            "as_of": ticket.as_of,
            "workflow": workflow,
            "ticket_id": ticket.ticket_id,
            "revision": ticket.revision,
            "received_at": received_at[i],
            "origin": origin,
            "actor": actors[i],
            "content": contents[i],
            "content_hash": content_keys[i],
            "context": orjson.dumps(ticket.context).decode(),
            "ticket_hash": ticket.ticket_hash,
        }
        for i, ticket in zip(fresh.index, tickets, strict=True)
    ]
    ledger.write(unit)
    starts.note(ledger.entities(), moment)
    unit.add(tables.ticket_keys, rows)
    unit.add(tables.tickets, rows)
    return Admission(moment.at, _results(numbered, fresh), tickets, fresh.frame, values)


def _identified(batch: Prepared) -> tuple[list[bytes], list[int], list[str]]:
    """The content key, the hash and the content of each submission."""
    keyring, workflow = batch.keyring, batch.plan.workflow.name
    return (
        [content_key(keyring.entity_key, s.content_hash) for s in batch.submissions],
        [ticket_hash(keyring.sampling_key, workflow, s.ticket_id) for s in batch.submissions],
        [s.content.decode() for s in batch.submissions],
    )


async def _fresh(
    unit: Unit, moment: Tick, batch: Prepared, numbered: Sequence[Numbered], keys: EntityKeys
) -> _Fresh:
    frame, submissions = batch.frame, batch.submissions
    leaders = {i: r for i, r in enumerate(numbered) if isinstance(r, New) and r.leader == i}
    index, news = list(leaders), list(leaders.values())
    if len(index) < frame.height:
        frame, keys = frame[index], take(keys, index)
    if all(new.revision == 1 for new in news):
        return _Fresh(index, news, frame, keys, keys)
    firsts = {
        submissions[i].ticket_id: row for row, i in enumerate(index) if news[row].revision == 1
    }
    missing = {submissions[i].ticket_id for i in index} - firsts.keys()
    earlier = await first_tickets(unit.conn, moment.workflow, missing, batch.schema)
    earlier_frame = batch.schema.frame(list(earlier.values()))
    earlier_keys = keys_of(moment.plan, earlier_frame, batch.keyring.entity_key)
    rows_of_earlier = {ticket_id: row for row, ticket_id in enumerate(earlier)}
    booked_on: dict[str, list[bytes | None]] = {}
    for entity, own in keys.items():
        column: list[bytes | None] = []
        for i in index:
            ticket_id = submissions[i].ticket_id
            if ticket_id in firsts:
                column.append(own[firsts[ticket_id]])
            else:
                row = rows_of_earlier.get(ticket_id)
                column.append(None if row is None else earlier_keys[entity][row])
        booked_on[entity] = column
    return _Fresh(index, news, frame, keys, booked_on)


def _book(
    moment: Tick, known: Known, fresh: _Fresh, submissions: Sequence[Submission]
) -> tuple[Ledger, _Fresh]:
    """Book the arrivals; tickets whose totals would overflow are left out, with all they bring."""
    while True:
        ledger = Ledger.of(moment, known)
        is_first = np.array([new.revision == 1 for new in fresh.news], dtype=np.bool_)
        refused = ledger.book(EventKind.ARRIVED, fresh.frame, is_first, fresh.booked_on)
        if not refused:
            return ledger, fresh
        tickets = {submissions[fresh.index[row]].ticket_id for row in refused}
        fresh = fresh.without(
            {row for row, i in enumerate(fresh.index) if submissions[i].ticket_id in tickets}
        )


def _contexts(values: Mapping[str, tuple[Ints, Flags]], count: int) -> list[dict[str, int]]:
    """The context of each ticket, sorted by name; what is not known is left out."""
    if not values:
        return [{} for _ in range(count)]
    names = sorted(values)
    numbers = zip(*(values[name][0].tolist() for name in names), strict=True)
    contexts = [dict(zip(names, row, strict=True)) for row in numbers]
    for name, (_, flags) in values.items():
        are_known = flags.tolist()
        if not all(are_known):
            for context, is_known in zip(contexts, are_known, strict=True):
                if not is_known:
                    del context[name]
    return contexts


def _results(numbered: Sequence[Numbered], fresh: _Fresh) -> list[Result]:
    place = {i: row for row, i in enumerate(fresh.index)}
    results: list[Result] = []
    for found in numbered:
        match found:
            case New(revision, leader) if leader in place:
                results.append(Admitted(revision, place[leader]))
            case New():
                results.append(HistoryOverflow())
            case Existing() | RevisionConflict():
                results.append(found)
    return results


_READ = "SELECT * FROM admission_read($1, $2, $3, $4, $5, $6, $7, $8, $9)"
