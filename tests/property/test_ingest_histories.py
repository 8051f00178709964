"""Running totals of whole columns against counting by hand, and cut anywhere."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import submission, ticket_schema
from tiebreak.core.workflow import (
    Entity,
    EventKind,
    Field,
    FieldType,
    HistoryFeature,
    Workflow,
)
from tiebreak.errors import Problem
from tiebreak.ingest.histories import Log
from tiebreak.ingest.intake import Arrival, Event, Intake, Place
from tiebreak.ingest.prepared import Prepared, Subjects, compute
from tiebreak.ingest.rejects import Rejects
from tiebreak.ingest.timeline import Stored, Timeline, arrange

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WORKFLOW = Workflow(
    name="small",
    title="Small",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
        Field(name="who", type=FieldType.TEXT),
    ),
    outcome_fields=(Field(name="bad", type=FieldType.BOOLEAN),),
    entities=(Entity(name="who", key=("who",)),),
    features=(
        HistoryFeature(name="day", entity="who", aggregate="count", window_days=1),
        HistoryFeature(name="waiting", entity="who", aggregate="open"),
        HistoryFeature(
            name="bad_ever",
            entity="who",
            aggregate="count",
            on=EventKind.OUTCOME,
            where="bad",
            counts="current",
        ),
        HistoryFeature(name="since", entity="who", aggregate="time_since"),
    ),
)
PLAN = HistoryPlan(WORKFLOW)
SCHEMA = ticket_schema(WORKFLOW)

arrivals = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["a", "b", None]), st.integers(0, 60)),
    max_size=15,
)
happenings = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from(["closed", "outcome", "acted"]),
        st.booleans(),
        st.integers(0, 60),
    ),
    max_size=20,
)


class Unheard(Place):
    """A place whose rejects nobody reads."""

    def reject(self, *problems: Problem) -> None:
        """Drop the reasons."""


def intake_of(
    tickets: list[tuple[int, str | None, int]],
    events: list[tuple[int, str, bool, int]],
) -> Intake:
    place = Unheard(Rejects(Path("rows.ndjson")), 1)
    intake = Intake()
    for number, who, hour in tickets:
        values = {"opened_at": START + hour * HOUR} | ({"who": who} if who else {})
        sent = submission(SCHEMA, f"T{number}", None, values)
        intake.arrivals.append(Arrival(sent, values["opened_at"], place))
    for number, kind, bad, hour in events:
        values = {"bad": bad} if kind == "outcome" else {}
        content = orjson.dumps(values)
        digest = hashlib.sha256(content).digest()
        moment = START + hour * HOUR
        intake.events.append(Event(f"T{number}", kind, moment, values, content, digest, place))
    return intake


def as_of_column(timeline: Timeline) -> pl.Series:
    return pl.Series("as_of", [n.time for n in timeline.tickets], pl.Datetime("us", "UTC"))


def run(timeline: Timeline, earlier: dict[str, Log] | None = None) -> tuple[Prepared, Subjects]:
    subjects = Subjects.of(timeline, PLAN, SCHEMA)
    empty = {name: Log.empty(slots) for name, slots in PLAN.slots.items()}
    return compute(WORKFLOW, PLAN, timeline, subjects, earlier or empty), subjects


@settings(deadline=None)
@given(arrivals, happenings)
def test_contexts_equal_counting_by_hand(
    tickets: list[tuple[int, str | None, int]],
    events: list[tuple[int, str, bool, int]],
) -> None:
    timeline = arrange(intake_of(tickets, events), Stored(), bytes)
    prepared, _ = run(timeline)
    log = prepared.log["who"]
    stands = list(zip(log.codes.tolist(), log.known_at.tolist(), strict=True))
    assert len(stands) == len(set(stands))  # one row an entity and moment
    features = (
        prepared.context.with_columns(as_of_column(timeline)).select(PLAN.feature_columns())
        if timeline.tickets
        else None
    )
    whose = {each: values.get("who") for each, values in timeline.firsts.items()}
    arrived = [
        (n.arrival.submission.ticket_id, n.time) for n in timeline.tickets if n.revision == 1
    ]
    for row, new in enumerate(timeline.tickets):
        assert features is not None
        who, now = new.arrival.submission.values.get("who"), new.time
        found = features.row(row, named=True)
        if who is None:
            assert set(found.values()) == {None}
            continue
        own = [time for ticket, time in arrived if whose[ticket] == who and time < now]
        told = [e for e in timeline.events if whose[e.event.ticket_id] == who and e.time < now]
        closed = {e.event.ticket_id for e in told if e.event.kind == "closed"}
        bad = [e for e in told if e.event.kind == "outcome" and e.event.values["bad"]]
        assert found["day"] == sum(time >= now - 24 * HOUR for time in own)
        assert found["waiting"] == len(own) - len(closed)
        assert found["bad_ever"] == len(bad)
        assert found["since"] == ((now - max(own)).total_seconds() if own else None)


@settings(deadline=None)
@given(arrivals, happenings, st.integers(0, 60))
def test_cut_in_two_anywhere_it_is_the_same(
    tickets: list[tuple[int, str | None, int]],
    events: list[tuple[int, str, bool, int]],
    hour: int,
) -> None:
    intake = intake_of(tickets, events)
    timeline = arrange(intake, Stored(), bytes)
    whole, _ = run(timeline)
    cut = START + hour * HOUR
    first = Timeline(
        [n for n in timeline.tickets if n.time <= cut],
        [n for n in timeline.events if n.time <= cut],
        firsts=timeline.firsts,
    )
    second = Timeline(
        [n for n in timeline.tickets if n.time > cut],
        [n for n in timeline.events if n.time > cut],
        firsts=timeline.firsts,
    )
    past, past_subjects = run(first)
    subjects = Subjects.of(second, PLAN, SCHEMA)
    code = {text: i for i, text in enumerate(subjects.entities["who"].texts)}
    log, texts = past.log["who"], past_subjects.entities["who"].texts
    keep = [i for i, c in enumerate(log.codes.tolist()) if texts[c] in code]
    recoded = log.codes[keep].copy()
    recoded[:] = [code[texts[c]] for c in log.codes[keep].tolist()]
    earlier = {"who": Log(recoded, log.known_at[keep], log.totals[keep])}
    rest = compute(WORKFLOW, PLAN, second, subjects, earlier)
    joined = past.context.rows() + rest.context.rows()
    assert joined == whole.context.rows()
