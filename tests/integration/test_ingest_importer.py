"""Import of history against a real database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.core.features import FeaturePlan
from tiebreak.core.matrix import feature_matrix
from tiebreak.core.tickets import outcome_schema, ticket_schema
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.ingest import units
from tiebreak.ingest.importer import Files, ImportReport, import_history
from tiebreak.ingest.intake import Arrival, Event, EventReader, Intake, TicketReader
from tiebreak.ingest.rejects import Rejects, RowsRejected
from tiebreak.ingest.simulator import Simulation, simulate
from tiebreak.settings import Keyring
from tiebreak.store.admission import admit, prepare
from tiebreak.store.database import Database
from tiebreak.store.outcomes import Report, record
from tiebreak.store.starts import Starts
from tiebreak.training.dataset import TICKET_ID, feature_specs
from tiebreak.training.snapshot import read_snapshot
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

    verified = await verify(db, ArtifactStore(Folder(tmp_path / "artifacts")), keyring)
    assert verified.is_intact, verified.first
    assert verified.verified >= report.tickets + simulation.events.height

    again = await load(db, keyring, locate, simulation, tmp_path)
    assert (again.tickets, sum(again.events.values()), again.rejected) == (0, 0, 0)
    assert again.already == report.tickets + simulation.events.height
    assert await contents(db) == before


async def test_a_stream_of_the_past_comes_in_as_it_was_known(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    """The same files again and again with a later moment leave what one import leaves."""
    files = simulation.write(tmp_path)
    waiting = simulation.tickets.height + simulation.events.height
    for day in (20, 21, 40, 60):
        at = START + timedelta(days=day)
        taken = Files([files[0]], [files[1]], known_by=at, as_arrived=True)
        report = await import_history(db, keyring, locate, taken, actor="tests", now=END)
        waiting -= report.tickets + sum(report.events.values())
        assert (report.rejected, report.not_yet_known) == (0, waiting)
        newest = await rows(
            db, "SELECT greatest((SELECT max(as_of) FROM tickets), max(known_at)) FROM outcomes"
        )
        assert START < newest[0]["greatest"] <= at  # type: ignore[operator]
    assert waiting == 0
    streamed = await contents(db)
    assert {key["origin"] for key in streamed["keys"]} == {"arrived"}
    twin = locate.model_copy(update={"name": "twin"})
    await load(db, keyring, twin, simulation, tmp_path)
    both = await rows(db, "SELECT workflow, ticket_id, context FROM tickets ORDER BY 1, 2")
    told = [(row["ticket_id"], row["context"]) for row in both]
    half = len(told) // 2
    assert told[:half] == told[half:]


async def test_training_sees_what_admission_one_by_one_sees(
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
    """From `at` on, admit and report one by one under one name; import all under another.

    What is stored is equal, and so is every bit of what a model is trained on and what it is given.
    """
    assert workflow.label is not None
    label = workflow.label.model_copy(update={"maturity_days": 0, "absent": "negative"})
    twin = workflow.model_copy(update={"name": "twin", "label": label})
    await load(db, keyring, twin, simulation, folder / "whole")
    tickets, events = simulation.write(folder / "later")
    intake = Intake()
    TicketReader(workflow, END, END).read(tickets, Rejects(tickets), intake)
    EventReader(workflow, END, END).read(events, Rejects(events), intake)
    later: list[Arrival | Event] = [a for a in intake.arrivals if a.as_of >= at]
    later += [e for e in intake.events if e.given_at >= at]
    later.sort(key=moment_of)
    lane = await Lane.open(db, "tests", keyring)
    one_by_one = OneByOne(lane, workflow, FeaturePlan(workflow), keyring)
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

    secret = keyring.entity_key
    trained = await read_snapshot(
        db, twin, known_by=END, entity_secret=secret, rules=RuleSet(rules=())
    )
    trained = trained.select((trained.as_of >= at).to_numpy())
    ids = trained.frame[TICKET_ID].to_list()
    assert len(ids) == len(admitted)
    specs = feature_specs(trained, {})
    served = pl.concat([one_by_one.features[ticket_id] for ticket_id in ids])
    matrices = [feature_matrix(specs, frame) for frame in (trained.frame, served)]
    assert matrices[0].shape == (len(ids), len(workflow.features))
    assert [row.tobytes() for row in matrices[0]] == [row.tobytes() for row in matrices[1]]


def moment_of(item: Arrival | Event) -> datetime:
    return item.as_of if isinstance(item, Arrival) else item.given_at


@dataclass(frozen=True)
class OneByOne:
    """Live admission and reporting, one item a transaction, at the moments given.

    `features` are the columns that a model would be given of each ticket.
    """

    lane: Lane
    workflow: Workflow
    computed: FeaturePlan
    keyring: Keyring
    starts: Starts = field(default_factory=Starts)
    features: dict[str, pl.DataFrame] = field(default_factory=dict)

    async def take(self, item: Arrival | Event) -> None:
        name, schema = self.workflow.name, ticket_schema(self.workflow)
        async with self.lane.unit() as unit:
            if isinstance(item, Arrival):
                admission = await admit(
                    unit,
                    prepare(self.computed.history, schema, [item.submission], self.keyring),
                    actors=["tests"],
                    received_at=[END],
                    starts=self.starts,
                    as_of=item.as_of,
                )
                frame, _ = self.computed.columns(*admission.columns())
                self.features[item.submission.ticket_id] = frame
            else:
                await record(
                    unit,
                    name,
                    self.computed.history,
                    schema,
                    outcome_schema(self.workflow),
                    [Report(item.ticket_id, item.kind, item.values, item.given_at)],
                    actors=["tests"],
                    received_at=END,
                    keyring=self.keyring,
                    at=item.given_at,
                )


async def test_small_units_write_the_same(
    db: Database,
    keyring: Keyring,
    locate: Workflow,
    simulation: Simulation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await load(db, keyring, locate, simulation, tmp_path)
    whole = await contents(db)
    monkeypatch.setattr(units, "RECORDS_A_UNIT", 37)
    twin = locate.model_copy(update={"name": "twin"})
    await load(db, keyring, twin, simulation, tmp_path)
    small = await rows(
        db, "SELECT ticket_id, content, context FROM tickets WHERE workflow = 'twin' ORDER BY as_of"
    )
    assert small == [
        {name: row[name] for name in ("ticket_id", "content", "context")}
        for row in whole["tickets"]
    ]


async def test_an_interrupted_import_goes_on(
    db: Database,
    keyring: Keyring,
    locate: Workflow,
    simulation: Simulation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(units, "RECORDS_A_UNIT", 500)
    tickets, events = simulation.write(tmp_path)

    class PowerCut(Exception):
        """The machine stops."""

    def cut(stage: str, share: float) -> None:
        if stage == "writing" and share > 0.5:
            raise PowerCut

    files = Files([tickets], [events])
    with pytest.raises(PowerCut):
        await import_history(db, keyring, locate, files, actor="tests", now=END, progress=cut)
    half = await contents(db)
    assert 0 < len(half["tickets"]) < simulation.tickets.height
    report = await load(db, keyring, locate, simulation, tmp_path)
    assert 0 < report.tickets < simulation.tickets.height
    assert report.rejected == 0
    resumed = await contents(db)

    twin = locate.model_copy(update={"name": "twin"})
    await load(db, keyring, twin, simulation, tmp_path)
    uncut = await rows(
        db, "SELECT ticket_id, context FROM tickets WHERE workflow = 'twin' ORDER BY as_of"
    )
    assert [{k: row[k] for k in ("ticket_id", "context")} for row in resumed["tickets"]] == uncut


async def test_a_second_file_continues_the_first(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    """Later files see the history of earlier ones, tickets and outcomes alike."""
    middle = START + timedelta(days=30)
    await load(db, keyring, locate, simulation.known_by(middle), tmp_path / "first")
    report = await load(db, keyring, locate, simulation, tmp_path / "both")
    assert report.rejected == 0
    assert report.already > 0
    twin = locate.model_copy(update={"name": "twin"})
    await load(db, keyring, twin, simulation, tmp_path / "twin")
    query = "SELECT ticket_id, as_of, context FROM tickets WHERE workflow = '{}' ORDER BY as_of"
    assert await rows(db, query.format("locate")) == await rows(db, query.format("twin"))


async def test_history_older_than_what_is_recorded_is_rejected(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    later = simulation.opened_from(START + timedelta(days=30))
    await load(db, keyring, locate, later, tmp_path / "later")
    before = await contents(db)
    earlier = simulation.known_by(START + timedelta(days=10))
    report = await load(db, keyring, locate, earlier, tmp_path / "earlier")
    assert report.tickets == 0
    reasons = read_rejects(report.rejects[0])
    assert {each["problems"][0]["code"] for each in reasons} == {"not_after_clock"}
    assert all("oldest first" in each["problems"][0]["hint"] for each in reasons)
    assert await contents(db) == before


async def test_bad_rows_are_rejected_and_good_rows_go_in(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    path = tmp_path / "tickets.ndjson"
    simulation.tickets.head(20).write_ndjson(path)
    lines = path.read_bytes().splitlines()
    lines[3] = lines[3].replace(b'"normal"', b'"nromal"').replace(b'"short_notice"', b'"nromal"')
    lines[7] = b'{"ticket_id": "\xff\xfe"}'
    lines[11] = lines[11][: len(lines[11]) // 2]
    lines[12] = lines[12].replace(b'"opened_at":"2024', b'"opened_at":"2124')
    path.write_bytes(b"\n".join(lines))
    events = tmp_path / "events.ndjson"
    events.write_text(
        '{"ticket_id":"SIM5-0000001","kind":"outcome","known_at":"2024-04-01T00:00:00Z",'
        '"response_late":true}\n'
        '{"ticket_id":"SIM5-0000001","kind":"outcome","known_at":"2024-04-02T00:00:00Z"}\n'
        '{"ticket_id":"SIM5-9999999","kind":"closed","known_at":"2024-04-01T00:00:00Z"}\n'
    )
    files = Files([path], [events])
    with pytest.raises(RowsRejected, match="nothing was imported"):
        await import_history(db, keyring, locate, files, actor="tests", now=END, strict=True)
    assert await rows(db, "SELECT * FROM ticket_keys") == []

    report = await import_history(db, keyring, locate, files, actor="tests", now=END)
    assert report.tickets == 16
    rejects = {each["row"]: each["problems"][0]["code"] for each in read_rejects(report.rejects[0])}
    assert set(rejects) == {4, 8, 12, 13}
    assert rejects[8] == "invalid_utf8"
    assert rejects[12] == "not_json"
    assert rejects[13] == "in_the_future"
    codes = [each["problems"][0]["code"] for each in read_rejects(report.rejects[1])]
    assert sorted(codes) == ["empty", "unknown_ticket"]


async def test_corrections_become_revisions(
    db: Database, keyring: Keyring, locate: Workflow, tmp_path: Path
) -> None:
    def line(hour: int, depth: int) -> str:
        fields = {
            "ticket_id": "T-1",
            "opened_at": f"2024-03-04T{hour:02d}:00:00Z",
            "ticket_type": "normal",
            "work_type": "fence",
            "excavator": "Excavator 0001",
            "city": "City 01",
            "depth_ft": depth,
        }
        return json.dumps(fields)

    path = tmp_path / "tickets.ndjson"
    path.write_text("\n".join([line(8, 2), line(9, 3), line(9, 3), line(10, 2)]))
    for expected in (3, 0):
        report = await import_history(db, keyring, locate, Files([path]), actor="tests", now=END)
        assert report.tickets == expected
    stored = await rows(db, "SELECT revision, context FROM tickets ORDER BY revision")
    assert [row["revision"] for row in stored] == [1, 2, 3]
    arrived = [json.loads(str(row["context"])) for row in stored]
    counts = [max(v for k, v in each.items() if "arrived.sum" in k) for each in arrived]
    assert counts == [0, 1, 1]  # a correction is no new ticket


async def test_tickets_of_equal_times_do_not_see_each_other(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    both = simulation.tickets.head(2).with_columns(
        opened_at=pl.col("opened_at").first(), excavator=pl.col("excavator").first()
    )
    path = tmp_path / "tickets.ndjson"
    both.write_ndjson(path)
    await import_history(db, keyring, locate, Files([path]), actor="tests", now=END)
    stored = [json.loads(str(row["context"])) for row in await rows(db, "SELECT * FROM tickets")]
    assert len(stored) == 2
    assert all(set(context.values()) == {0} for context in stored)


async def test_feedback_alone_moves_no_clock(
    db: Database, keyring: Keyring, locate: Workflow, simulation: Simulation, tmp_path: Path
) -> None:
    await load(db, keyring, locate, simulation, tmp_path)
    clock = (await contents(db))["clock"]
    path = tmp_path / "words.csv"
    path.write_text(
        "ticket_id,kind,known_at,reviewer,band,note\n"
        "SIM5-0000001,feedback,2024-03-02T10:00:00Z,Reviewer 99,high,look again\n"
    )
    report = await import_history(db, keyring, locate, Files([], [path]), actor="tests", now=END)
    assert report.events["feedback"] == 1
    assert (await contents(db))["clock"] == clock


def read_rejects(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_the_last_5000_of_60000_equal_admission_one_by_one(
    db: Database, keyring: Keyring, locate: Workflow, tmp_path: Path
) -> None:
    whole = simulate(11, 60_000, datetime(2022, 3, 1, tzinfo=UTC), 730).known_by(END)
    at = whole.tickets["opened_at"][-5_000]
    await load(db, keyring, locate, whole.known_by(at), tmp_path / "past")
    await admitted_equal_imported(db, keyring, locate, whole, at, tmp_path)
