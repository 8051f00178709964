"""Units of an import: what happened up to a moment, written in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson

from tiebreak.core.totals import Ints
from tiebreak.errors import Conflict
from tiebreak.ingest.prepared import Prepared, microseconds
from tiebreak.ingest.timeline import NewEvent, NewFeedback, NewTicket
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.history import Tick, log_rows, tick
from tiebreak.store.kept import Kept
from tiebreak.store.keyed import entity_key, ticket_hash
from tiebreak.store.unit import Unit

RECORDS_A_UNIT = 10_000

Row = dict[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class HistoryRebuilt(Conflict):
    """A new generation of the history log took over in the middle of an import."""

    code = "history_rebuilt"


@dataclass(frozen=True, slots=True)
class Part:
    """The records of one unit, as ranges of what is prepared; `until` moves the clock."""

    until: datetime | None  # None: only feedback, which moves no clock
    tickets: slice
    events: slice
    log: Mapping[str, slice]
    feedback: slice


def parts(prepared: Prepared) -> list[Part]:
    """Cut what is prepared into units in time order; equal times stay together.

    All feedback goes with the last unit: it moves no clock and has no place in the log.
    """
    ticket_times = microseconds([new.time for new in prepared.tickets])
    event_times = microseconds([new.time for new in prepared.events])
    ends = _ends(np.sort(np.concatenate([ticket_times, event_times])))
    cut: list[Part] = []
    before = np.iinfo(np.int64).min
    for end in ends:
        cut.append(
            Part(
                until=_EPOCH + timedelta(microseconds=end),
                tickets=_between(ticket_times, before, end),
                events=_between(event_times, before, end),
                log={
                    name: _between(log.known_at, before, end) for name, log in prepared.log.items()
                },
                feedback=slice(0, len(prepared.feedback) if end == ends[-1] else 0),
            )
        )
        before = end
    if not cut and prepared.feedback:
        nothing = slice(0, 0)
        whole = slice(0, len(prepared.feedback))
        cut.append(Part(None, nothing, nothing, dict.fromkeys(prepared.log, nothing), whole))
    return cut


def _ends(times: Ints) -> list[int]:
    """The last time of each unit."""
    if not times.size:
        return []
    marks = times[RECORDS_A_UNIT - 1 :: RECORDS_A_UNIT]
    return np.unique(np.append(marks, times[-1])).tolist()


def _between(times: Ints, after: int, until: int) -> slice:
    """The rows with `after` < time <= `until`."""
    first, last = times.searchsorted([after, until], side="right").tolist()
    return slice(first, last)


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the units of one import."""

    workflow: str
    kept: Kept
    keyring: Keyring
    actor: str
    received_at: datetime
    origin: str  # of its tickets: import | arrived

    async def write(self, unit: Unit, prepared: Prepared, part: Part) -> None:
        """Write one part: the clock, ticket keys, tickets, outcomes, feedback and the log."""
        if part.until is not None:
            plan = self.kept.plan
            moment = await tick(unit.conn, self.workflow, plan, at=part.until)
            if moment.generation != self.kept.generation or moment.plan is not plan:
                raise HistoryRebuilt(hint="Run the import again.", workflow=self.workflow)
            unit.add(tables.history_log, self._log(prepared, part, moment))
        new = prepared.tickets[part.tickets]
        contexts = _contexts(prepared, part.tickets)
        unit.add(tables.ticket_keys, [self._ticket_key(each) for each in new])
        unit.add(
            tables.tickets,
            [self._ticket(each, context) for each, context in zip(new, contexts, strict=True)],
        )
        unit.add(tables.outcomes, [self._event(e) for e in prepared.events[part.events]])
        words = prepared.feedback[part.feedback]
        unit.add(tables.ml_feedback, [self._word(each) for each in words])

    def _ticket_key(self, new: NewTicket) -> Row:
        return {
            "workflow": self.workflow,
            "ticket_id": new.arrival.submission.ticket_id,
            "revision": new.revision,
            "content_hash": new.content_key,
            "as_of": new.time,
            "origin": self.origin,
        }

    def _ticket(self, new: NewTicket, context: str) -> Row:
        submission = new.arrival.submission
        secret = self.keyring.sampling_key
        return {
            "as_of": new.time,
            "workflow": self.workflow,
            "ticket_id": submission.ticket_id,
            "revision": new.revision,
            "received_at": self.received_at,
            "origin": self.origin,
            "actor": self.actor,
            "content": submission.content.decode(),
            "context": context,
            "ticket_hash": ticket_hash(secret, self.workflow, submission.ticket_id),
        }

    def _event(self, new: NewEvent) -> Row:
        return {
            "workflow": self.workflow,
            "ticket_id": new.event.ticket_id,
            "ordinal": new.ordinal,
            "kind": new.event.kind,
            "known_at": new.known_at,
            "given_at": new.event.given_at,
            "received_at": self.received_at,
            "actor": self.actor,
            "content": new.event.content.decode(),
            "content_hash": new.content_key,
        }

    def _word(self, new: NewFeedback) -> Row:
        feedback = new.feedback
        return {
            "workflow": self.workflow,
            "ticket_id": feedback.ticket_id,
            "ordinal": new.ordinal,
            "reviewer": feedback.reviewer,
            "band": int(feedback.band),
            "given_at": feedback.given_at,
            "received_at": self.received_at,
            "note": feedback.note,
        }

    def _log(self, prepared: Prepared, part: Part, moment: Tick) -> list[Row]:
        rows: list[Row] = []
        for name, where in part.log.items():
            log, secret = prepared.log[name], self.keyring.entity_key
            codes: list[int] = log.codes[where].tolist()
            texts = prepared.entities[name].texts
            keys = {
                code: entity_key(secret, self.workflow, name, texts[code]) for code in set(codes)
            }
            rows += log_rows(
                moment,
                name,
                [keys[code] for code in codes],
                [_EPOCH + timedelta(microseconds=us) for us in log.known_at[where].tolist()],
                log.totals[where],
            )
        return rows


def _contexts(prepared: Prepared, where: slice) -> Sequence[str]:
    """The context of each ticket as canonical JSON, as admission writes it."""
    names = prepared.context.columns
    count = where.stop - where.start
    if not names:
        return ["{}"] * count
    return [
        orjson.dumps(
            {name: value for name, value in zip(names, row, strict=True) if value is not None},
            option=orjson.OPT_SORT_KEYS,
        ).decode()
        for row in prepared.context[where].rows()
    ]
