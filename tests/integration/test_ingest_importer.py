"""Import of history against a real database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import outcome_schema, ticket_schema
from tiebreak.core.workflow import Workflow
from tiebreak.ingest import units
from tiebreak.ingest.files import Rejects, RowsRejected
from tiebreak.ingest.importer import Files, ImportReport, import_history
from tiebreak.ingest.intake import Arrival, Event, EventReader, Intake, TicketReader
from tiebreak.ingest.simulator import Simulation, simulate
from tiebreak.settings import Keyring
from tiebreak.store.admission import admit
from tiebreak.store.database import Database
from tiebreak.store.outcomes import Report, record
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
START = datetime(2024, 3, 1, tzinfo=UTC)
END = START + timedelta(days=60)


@pytest.fixture(scope="module")
def locate() -> Workflow:
    return check_folder(ROOT / "workflows" / "locate").sound()[0]


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(5, 700, START, 60).known_by(END)


async def load(
    db: Database,
    keyring: Keyring,
    workflow: Workflow,
    simulation: Simulation,
    folder: Path,
    **options: bool,
) -> ImportReport:
    tickets, events = simulation.write(folder)
    return await import_history(
        db, keyring, workflow, Files([tickets], [events]), actor="tests", now=END, **options
    )


async def rows(db: Database, query: str) -> list[dict[str, object]]:
    async with db.connection() as connection:
        return [dict(row) for row in await connection.fetch(query)]


async def contents(db: Database) -> dict[str, list[dict[str, object]]]:
    """All that an import writes, but for salts, seals and when it ran."""
    return {
        "tickets": await rows(
            db,
            "SELECT as_of, ticket_id, revision, content, context, ticket_hash FROM tickets"
            " ORDER BY as_of, ticket_id",
        ),
        "keys": await rows(db, "SELECT * FROM ticket_keys ORDER BY ticket_id, revision"),
        "outcomes": await rows(
            db,
            "SELECT ticket_id, ordinal, kind, known_at, given_at, content, content_hash"
            " FROM outcomes ORDER BY ticket_id, ordinal",
        ),
        "feedback": await rows(
            db,
            "SELECT ticket_id, ordinal, reviewer, band, given_at, note FROM ml_feedback"
            " ORDER BY ticket_id, ordinal",
        ),
        "log": await rows(db, "SELECT * FROM history_log ORDER BY entity_key, known_at"),
        "clock": await rows(db, "SELECT workflow, last_as_of FROM workflow_clocks"),
    }


async def test_everything_read_is_stored_once(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    report = await load(db, keyring, locate, simulation, tmp_path)
    assert report.tickets == simulation.tickets.height
    assert report.rejected == 0
    assert sum(report.events.values()) == simulation.events.height
    before = await contents(db)
    assert len(before["tickets"]) == report.tickets
    assert before["tickets"][0]["as_of"] == simulation.tickets["opened_at"][0]

    again = await load(db, keyring, locate, simulation, tmp_path)
    assert (again.tickets, sum(again.events.values()), again.rejected) == (0, 0, 0)
    assert again.already == report.tickets + simulation.events.height
    assert await contents(db) == before


async def test_context_equals_that_of_admission_one_by_one(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    """Admission sees the imported log: nothing about a ticket differs but its name."""
    at = START + timedelta(days=40)
    await load(db, keyring, locate, simulation.known_by(at), tmp_path / "past")
    await admitted_equal_imported(db, keyring, locate, simulation, at, tmp_path)


async def admitted_equal_imported(
    db: Database,
    keyring: Keyring,
    workflow: Workflow,
    simulation: Simulation,
    at: datetime,
    folder: Path,
) -> None:
    """From `at` on, admit and report one by one under one name; import all under another."""
    twin = workflow.model_copy(update={"name": "twin"})
    await load(db, keyring, twin, simulation, folder / "whole")
    tickets, events = simulation.write(folder / "later")
    intake = Intake()
    TicketReader(workflow, END).read(tickets, Rejects(tickets), intake)
    EventReader(workflow, END).read(events, Rejects(events), intake)
    later: list[Arrival | Event] = [a for a in intake.arrivals if a.as_of >= at]
    later += [e for e in intake.events if e.given_at >= at]
    later.sort(key=moment_of)
    lane = await Lane.open(db, "tests", keyring)
    one_by_one = OneByOne(lane, workflow, HistoryPlan(workflow), keyring)
    for item in later:
        await one_by_one.take(item)
    compare = (
        "SELECT ticket_id, as_of, content, context FROM tickets WHERE workflow = '{}'"
        f" AND as_of >= '{at.isoformat()}' ORDER BY as_of"
    )
    admitted = await rows(db, compare.format(workflow.name))
    imported = await rows(db, compare.format("twin"))
    assert len(admitted) == sum(isinstance(item, Arrival) for item in later) > 0
    assert admitted == imported


def moment_of(item: Arrival | Event) -> datetime:
    return item.as_of if isinstance(item, Arrival) else item.given_at


@dataclass(frozen=True)
class OneByOne:
    """Live admission and reporting, one item a transaction, at the moments given."""

    lane: Lane
    workflow: Workflow
    plan: HistoryPlan
    keyring: Keyring

    async def take(self, item: Arrival | Event) -> None:
        name, schema = self.workflow.name, ticket_schema(self.workflow)
        async with self.lane.unit() as unit:
            if isinstance(item, Arrival):
                await admit(
                    unit,
                    name,
                    self.plan,
                    schema,
                    [item.submission],
                    actors=["tests"],
                    received_at=[END],
                    keyring=self.keyring,
                    as_of=item.as_of,
                )
            else:
                await record(
                    unit,
                    name,
                    self.plan,
                    schema,
                    outcome_schema(self.workflow),
                    [Report(item.ticket_id, item.kind, item.values, item.given_at)],
                    actors=["tests"],
                    received_at=END,
                    keyring=self.keyring,
                    at=item.given_at,
                )
