"""A small workflow and its tickets, for tests of the store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.stored import StoredTicket
from tiebreak.core.tickets import Schema, Submission, outcome_schema, submission, ticket_schema
from tiebreak.core.workflow import Entity, EventKind, Field, FieldType, HistoryFeature, Workflow
from tiebreak.settings import Keyring
from tiebreak.store import admission, commit, outcomes
from tiebreak.store.decision_ids import decision_id
from tiebreak.store.starts import Starts

NAME = "digs"
OPENED = datetime(2026, 1, 2, tzinfo=UTC)


def feature(name: str, aggregate: str, **more: Any) -> HistoryFeature:
    """A history feature about the digger, unless it says otherwise."""
    return HistoryFeature(name=name, **{"entity": "digger", "aggregate": aggregate, **more})


WORKFLOW = Workflow(
    name=NAME,
    title="Digs",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
        Field(name="digger", type=FieldType.TEXT),
        Field(name="place", type=FieldType.TEXT),
        Field(name="depth", type=FieldType.INTEGER),
    ),
    outcome_fields=(
        Field(name="damage", type=FieldType.BOOLEAN),
        Field(name="cost", type=FieldType.INTEGER),
    ),
    entities=(Entity(name="digger", key=("digger",)), Entity(name="place", key=("place",))),
    features=(
        feature("digs", "count"),
        feature("digs_10d", "count", window_days=10),
        feature("corrected", "count", counts="current"),
        feature("deep_digs", "count", where="depth > 10"),
        feature("depth_sum", "sum", value="depth"),
        feature("damages", "rate", on=EventKind.OUTCOME, where="damage", window_days=30),
        feature("cost_mean", "mean", on=EventKind.OUTCOME, value="cost", counts="current"),
        feature("last_depth", "last", value="depth"),
        feature("since_dig", "time_since", entity="place"),
        feature("open_digs", "open"),
        feature("open_deep", "open", where="depth > 10", entity="place"),
    ),
)
PLAN = HistoryPlan(WORKFLOW)
TICKETS = ticket_schema(WORKFLOW)
OUTCOMES = outcome_schema(WORKFLOW)


_STARTS: WeakKeyDictionary[Lane, Starts] = WeakKeyDictionary()


def ticket(
    ticket_id: str, revision: int | None = None, *, schema: Schema = TICKETS, **values: Any
) -> Submission:
    """A submission with these fields."""
    return submission(schema, ticket_id, revision, {"opened_at": OPENED, **values})


def told(ticket_id: str, kind: outcomes.Kind = "outcome", **values: Any) -> outcomes.Report:
    """A report about a ticket; `given_at` among the values is the report's own."""
    given_at = values.pop("given_at", None)
    return outcomes.Report(ticket_id, kind, values, given_at)


async def admit(
    lane: Lane,
    keyring: Keyring,
    *submissions: Submission,
    as_of: datetime | None = None,
    plan: HistoryPlan = PLAN,
    starts: Starts | None = None,
) -> admission.Admission:
    """Admit a batch in a unit of its own; what a lane's admissions read ahead is remembered."""
    starts = starts or _STARTS.setdefault(lane, Starts())
    async with lane.unit() as unit:
        return await admission.admit(
            unit,
            admission.prepare(plan, ticket_schema(plan.workflow), submissions, keyring),
            actors=["ann"] * len(submissions),
            received_at=[datetime.now(UTC)] * len(submissions),
            starts=starts,
            as_of=as_of,
        )


async def record(
    lane: Lane, keyring: Keyring, *reports: outcomes.Report, plan: HistoryPlan = PLAN
) -> Sequence[outcomes.Result]:
    """Record a batch of reports in a unit of its own."""
    async with lane.unit() as unit:
        return await outcomes.record(
            unit,
            plan.workflow.name,
            plan,
            ticket_schema(plan.workflow),
            OUTCOMES,
            reports,
            actors=["ann"] * len(reports),
            received_at=datetime.now(UTC),
            keyring=keyring,
        )


def decision_row(ticket: StoredTicket, ordinal: int = 1, **more: Any) -> dict[str, Any]:
    """A decision on an admitted ticket."""
    names = ("as_of", "workflow", "ticket_id", "revision")
    key: dict[str, Any] = {name: getattr(ticket, name) for name in names}
    return {
        **key,
        "decision_id": decision_id(**key, ordinal=ordinal),
        "ordinal": ordinal,
        "decided_at": datetime.now(UTC),
        "policy_hash": "p" * 64,
        "fingerprint": "f" * 64,
        "band": 1,
        "route": "auto",
        "route_reason": "agreed",
        "is_tie": False,
        "review_probability": 0.01,
        "rules_band": 1,
        "rules_points": 5,
        "hard_floor": None,
        "fired": '[{"rule":"deep","values":{}}]',
        "model_status": "scored",
        "margin": 0.1 + 0.2,
        "score": 1 / 3,
        "model_band": 1,
        "base_value": -0.0,
        "contributions": b"\x00" * 16,
        "errors": "[]",
        **more,
    }


async def decide(lane: Lane, *tickets: StoredTicket, **more: Any) -> list[dict[str, Any]]:
    """Commit a decision on each admitted ticket."""
    async with lane.unit() as unit:
        return await commit.commit(unit, [decision_row(ticket, **more) for ticket in tickets])
