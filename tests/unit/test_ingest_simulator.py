"""The simulator: the same arguments, the same bits; plausible shares; nothing known too early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tiebreak.core.tickets import outcome_schema, ticket_schema
from tiebreak.ingest.simulator import Simulation, SimulationRefused, simulate
from tiebreak.workflows.check import check_folder

START = datetime(2024, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def year() -> Simulation:
    return simulate(3, 20_000, START, 365)


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (simulate(9, 500, START, 40) for _ in range(2))
    assert first.tickets.equals(second.tickets)
    assert first.events.equals(second.events)
    assert not first.tickets.equals(simulate(10, 500, START, 40).tickets)


def test_times_are_distinct_ordered_and_inside_the_days(year: Simulation) -> None:
    opened = year.tickets["opened_at"]
    assert opened.n_unique() == year.tickets.height == 20_000
    assert opened.is_sorted()
    assert opened[0] >= START
    assert opened[-1] < START + timedelta(days=366)


def test_shares_are_as_documented(year: Simulation) -> None:
    outcomes = year.events.filter(pl.col("kind") == "outcome")
    late = outcomes["response_late"].drop_nulls()
    assert late.len() == year.tickets.height
    assert 0.10 <= late.sum() / late.len() <= 0.20
    assert 0.0015 <= (outcomes["damage"].sum() or 0) / year.tickets.height <= 0.005
    kinds = dict(year.events["kind"].value_counts().iter_rows())
    assert kinds["closed"] == year.tickets.height
    assert 0.02 < kinds["feedback"] / year.tickets.height < 0.06
    assert 0.005 < kinds["acted"] / year.tickets.height < 0.15


def test_outcomes_are_known_late_and_never_before_the_ticket(year: Simulation) -> None:
    opened = year.tickets.select("ticket_id", "opened_at", "due_at")
    known = year.events.join(opened, on="ticket_id")
    assert known.filter(pl.col("known_at") <= pl.col("opened_at")).is_empty()
    late = known.filter(pl.col("response_late").is_not_null())
    assert late.filter(pl.col("known_at") <= pl.col("due_at")).is_empty()
    damaged = known.filter(pl.col("damage"))
    waited = (damaged["known_at"] - damaged["opened_at"]).dt.total_days()
    assert waited.median() > 7


def test_both_classes_of_response_are_known_at_the_same_lag(year: Simulation) -> None:
    """An early answer must not tell first."""
    known = year.events.filter(pl.col("response_late").is_not_null()).join(
        year.tickets.select("ticket_id", "due_at"), on="ticket_id"
    )
    lag = known.with_columns(lag=(pl.col("known_at") - pl.col("due_at")).dt.total_seconds())
    means = dict(lag.group_by("response_late").agg(pl.col("lag").mean()).iter_rows())
    assert means[True] == pytest.approx(means[False], rel=0.05)


def test_names_are_plainly_artificial_and_marked(year: Simulation) -> None:
    tickets = year.tickets
    assert tickets["ticket_id"].str.starts_with("SIM3-").all()
    assert tickets["remarks"].str.starts_with("[simulated]").all()
    for column, pattern in (
        ("excavator", r"^Excavator \d{4}$"),
        ("caller", r"^Caller \d{5}$"),
        ("city", r"^City \d{2}$"),
        ("street", r"^Street \d{3}$"),
    ):
        assert tickets[column].str.contains(pattern).all()


def test_every_row_is_valid_for_the_locate_workflow(year: Simulation) -> None:
    workflow = check_folder(ROOT / "workflows" / "locate").sound()[0]
    schema, outcomes = ticket_schema(workflow), outcome_schema(workflow)
    assert set(year.tickets.columns) == {"ticket_id", *schema.names}
    for row in year.tickets.head(2_000).iter_rows(named=True):
        assert isinstance(schema.read(row), dict)
    for row in year.events.head(2_000).iter_rows(named=True):
        assert isinstance(outcomes.read(row), dict)


def test_drift_changes_the_late_part_only_when_switched_on() -> None:
    calm, drifting = (simulate(4, 12_000, START, 365, drift=on) for on in (False, True))

    def fiber_share(simulation: Simulation) -> float:
        late = simulation.tickets.filter(pl.col("opened_at") > START + timedelta(days=240))
        return late.select((pl.col("work_type") == "fiber").mean()).item()

    assert fiber_share(drifting) > 1.5 * fiber_share(calm)
    early = START + timedelta(days=200)
    columns = ["opened_at", "excavator", "work_type", "method", "polygon_sqft"]
    assert (calm.known_by(early).tickets.select(columns)).equals(
        drifting.known_by(early).tickets.select(columns)
    )


def test_known_by_and_opened_from_split_without_loss(year: Simulation) -> None:
    at = START + timedelta(days=180)
    before, after = year.known_by(at), year.opened_from(at)
    assert before.tickets.height + after.tickets.height == year.tickets.height
    assert before.events["known_at"].max() < at
    assert set(after.events["ticket_id"]) <= set(after.tickets["ticket_id"])


@pytest.mark.parametrize(
    ("seed", "tickets", "start", "days"),
    [
        (1, 10, datetime(2024, 1, 1), 10),
        (-1, 10, START, 10),
        (1, 0, START, 10),
        (1, 10, START, 0),
    ],
)
def test_what_cannot_be_simulated_is_refused(
    seed: int, tickets: int, start: datetime, days: int
) -> None:
    with pytest.raises(SimulationRefused):
        simulate(seed, tickets, start, days)


def test_the_smallest_simulation_works() -> None:
    assert simulate(1, 1, START, 1).tickets.height == 1
