"""Putting what was read in order: which of it is new, as which revision, known when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tiebreak.core.tickets import Values
from tiebreak.errors import Problem
from tiebreak.ingest.intake import Arrival, Event, Feedback, Intake

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

TOO_OLD = Problem(
    "",
    "not_after_clock",
    "is not later than what the workflow has recorded",
    "import history oldest first and before live tickets, older tickets into a new database; "
    "send later knowledge as outcomes",
)
UNKNOWN_TICKET = Problem(
    "ticket_id", "unknown_ticket", "no such ticket, or it is erased", "import its ticket with it"
)


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A ticket revision that is stored."""

    revision: int
    content_key: bytes
    as_of: datetime


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An outcome, closed or acted record that is stored."""

    ordinal: int
    kind: str
    content_key: bytes
    given_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store holds already about the tickets that were read; empty for a first import."""

    last_as_of: datetime = NEVER
    revisions: Mapping[str, Sequence[StoredRevision]] = field(
        default_factory=dict[str, list[StoredRevision]]
    )
    firsts: Mapping[str, Values] = field(default_factory=dict[str, Values])
    events: Mapping[str, Sequence[StoredEvent]] = field(
        default_factory=dict[str, list[StoredEvent]]
    )
    feedback: Mapping[str, Sequence[tuple[str, datetime]]] = field(
        default_factory=dict[str, list[tuple[str, datetime]]]
    )


@dataclass(frozen=True, slots=True)
class NewTicket:
    """A ticket revision to store."""

    arrival: Arrival
    revision: int
    content_key: bytes

    @property
    def time(self) -> datetime:
        """Its `as_of`."""
        return self.arrival.as_of


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to store; `is_first` of its kind about its ticket."""

    event: Event
    ordinal: int
    known_at: datetime
    content_key: bytes
    is_first: bool

    @property
    def time(self) -> datetime:
        """When it was known."""
        return self.known_at


@dataclass(frozen=True, slots=True)
class NewFeedback:
    """A reviewer's word to store."""

    feedback: Feedback
    ordinal: int

    @property
    def time(self) -> datetime:
        """When it was given."""
        return self.feedback.given_at


@dataclass(slots=True)
class Timeline:
    """What is new, each list in time order, and how much of what was read was there already."""

    tickets: list[NewTicket] = field(default_factory=list[NewTicket])
    events: list[NewEvent] = field(default_factory=list[NewEvent])
    feedback: list[NewFeedback] = field(default_factory=list[NewFeedback])
    firsts: dict[str, Values] = field(default_factory=dict[str, Values])
    already: int = 0

    @property
    def size(self) -> int:
        """How many records are new."""
        return len(self.tickets) + len(self.events) + len(self.feedback)


def arrange(intake: Intake, stored: Stored, keyed: Callable[[bytes], bytes]) -> Timeline:
    """What of the intake is new, in time order; what cannot be taken goes to its rejects.

    `keyed` makes the content key of a content hash. A ticket equal to the latest revision before
    it is not new, nor is an event equal to the ticket's latest one of its kind. An event is never
    known before its ticket: it is then known a microsecond after it.
    """
    timeline = Timeline(firsts=dict(stored.firsts))
    opened = {ticket_id: revisions[0].as_of for ticket_id, revisions in stored.revisions.items()}
    _arrange_tickets(intake.arrivals, stored, keyed, timeline, opened)
    _arrange_events(intake.events, stored, keyed, timeline, opened)
    _arrange_feedback(intake.feedback, stored, timeline, opened)
    return timeline


def _arrange_tickets(
    arrivals: Sequence[Arrival],
    stored: Stored,
    keyed: Callable[[bytes], bytes],
    timeline: Timeline,
    opened: dict[str, datetime],
) -> None:
    latest = {
        ticket_id: (revisions[-1].revision, revisions[-1].content_key)
        for ticket_id, revisions in stored.revisions.items()
    }
    present = {
        (ticket_id, revision.content_key, revision.as_of)
        for ticket_id, revisions in stored.revisions.items()
        for revision in revisions
    }
    for arrival in sorted(arrivals, key=_as_of):
        ticket_id = arrival.submission.ticket_id
        content_key = keyed(arrival.submission.content_hash)
        revision, content = latest.get(ticket_id, (0, b""))
        if content == content_key or (ticket_id, content_key, arrival.as_of) in present:
            timeline.already += 1
        elif arrival.as_of <= stored.last_as_of:
            arrival.place.reject(TOO_OLD)
        else:
            latest[ticket_id] = (revision + 1, content_key)
            timeline.tickets.append(NewTicket(arrival, revision + 1, content_key))
            if revision == 0:
                timeline.firsts[ticket_id] = arrival.submission.values
                opened[ticket_id] = arrival.as_of


def _arrange_events(
    events: Sequence[Event],
    stored: Stored,
    keyed: Callable[[bytes], bytes],
    timeline: Timeline,
    opened: Mapping[str, datetime],
) -> None:
    ordinals = {ticket_id: len(known) for ticket_id, known in stored.events.items()}
    latest: dict[tuple[str, str], bytes] = {}
    present: set[tuple[str, str, bytes, datetime | None]] = set()
    for ticket_id, known in stored.events.items():
        for each in known:
            latest[ticket_id, each.kind] = each.content_key
            present.add((ticket_id, each.kind, each.content_key, each.given_at))
    known_at = _after_opening(events, opened)
    for event, moment in sorted(known_at, key=_moment):
        ticket_id, kind = event.ticket_id, event.kind
        content_key = keyed(event.content_hash)
        newest = latest.get((ticket_id, kind))
        if newest == content_key or (ticket_id, kind, content_key, event.given_at) in present:
            timeline.already += 1
        elif moment <= stored.last_as_of:
            event.place.reject(TOO_OLD)
        else:
            ordinals[ticket_id] = ordinals.get(ticket_id, 0) + 1
            latest[ticket_id, kind] = content_key
            timeline.events.append(
                NewEvent(event, ordinals[ticket_id], moment, content_key, newest is None)
            )


def _after_opening(
    events: Sequence[Event], opened: Mapping[str, datetime]
) -> list[tuple[Event, datetime]]:
    found: list[tuple[Event, datetime]] = []
    for event in events:
        moment = opened.get(event.ticket_id)
        if moment is None:
            event.place.reject(UNKNOWN_TICKET)
        else:
            found.append((event, max(event.given_at, moment + MICROSECOND)))
    return found


def _arrange_feedback(
    feedback: Sequence[Feedback],
    stored: Stored,
    timeline: Timeline,
    opened: Mapping[str, datetime],
) -> None:
    ordinals: defaultdict[str, int] = defaultdict(int)
    present: set[tuple[str, str, datetime]] = set()
    for ticket_id, known in stored.feedback.items():
        ordinals[ticket_id] = len(known)
        present |= {(ticket_id, reviewer, given_at) for reviewer, given_at in known}
    for each in sorted(feedback, key=_given_at):
        identity = (each.ticket_id, each.reviewer, each.given_at)
        if each.ticket_id not in opened:
            each.place.reject(UNKNOWN_TICKET)
        elif identity in present:
            timeline.already += 1
        else:
            present.add(identity)
            ordinals[each.ticket_id] += 1
            timeline.feedback.append(NewFeedback(each, ordinals[each.ticket_id]))


def _as_of(arrival: Arrival) -> datetime:
    return arrival.as_of


def _given_at(feedback: Feedback) -> datetime:
    return feedback.given_at


def _moment(pair: tuple[Event, datetime]) -> datetime:
    return pair[1]
