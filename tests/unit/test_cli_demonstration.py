"""The demo's tickets and figures."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiebreak.cli.demonstration import tickets
from tiebreak.cli.demonstration.figures import figures, found_in_top, most_telling
from tiebreak.cli.demonstration.tickets import Live, Plan
from tiebreak.ingest.simulator import simulate

NOW = datetime(2026, 5, 20, 15, 30, tzinfo=UTC)


def decision(ticket_id: str, **changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "ticket_id": ticket_id,
        "band": "low",
        "route": "auto",
        "route_reason": "agreed",
        "is_tie": False,
        "rules": {"band": "low", "points": 0, "fired": []},
        "model": {"status": "scored", "score": 0.1},
    }
    return usual | changes


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=7),
    st.data(),
)
def test_equal_keys_are_drawn_by_lot(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    """The expectation equals the mean over all choices that keep the order of keys."""
    count = data.draw(st.integers(0, len(rows)))
    order = sorted((key for key, _ in rows), reverse=True)[:count]
    choices = [
        sum(rows[i][1] for i in chosen)
        for chosen in combinations(range(len(rows)), count)
        if sorted((rows[i][0] for i in chosen), reverse=True) == order
    ]
    keys = [(key, 0.0) for key, _ in rows]
    assert found_in_top(count, keys, [bad for _, bad in rows]) == pytest.approx(mean(choices))


def test_figures_compare_at_the_number_that_went_to_people() -> None:
    decisions = [
        decision("a", band="high", route="review", model={"status": "scored", "score": 0.9}),
        decision("b", rules={"band": "medium", "points": 30, "fired": []}),
        decision("c"),
        decision("d"),
    ]
    found = figures(decisions, {"a": True, "b": False, "c": False, "d": False})
    assert found.bands == {"low": 3, "medium": 0, "high": 1, "critical": 0}
    assert found.routes == {"auto": 3, "review": 1}
    assert (found.worth.looked_at, found.worth.bad) == (1, 1)
    assert found.worth.found_by_policy == 1
    assert found.worth.found_by_rules == 0
    assert found.worth.found_by_chance == 0.25


def test_a_scored_high_decision_with_fired_rules_is_explained() -> None:
    fired = {"band": "low", "points": 0, "fired": [{"rule": "r"}]}
    told = decision("b", band="high", rules=fired)
    unscored = decision("c", band="critical", rules=fired, model={"status": "absent"})
    assert most_telling([decision("a", band="critical"), told, unscored]) is told


def test_live_tickets_open_within_the_last_week_at_their_hour() -> None:
    simulation = simulate(1, 300, NOW - timedelta(days=50), 100)
    live = Live(simulation.tickets, simulation.events, "-2")
    for body, row in zip(
        live.bodies(NOW, ["opened_at", "due_at", "legal_on", "members"]),
        simulation.tickets.iter_rows(named=True),
        strict=True,
    ):
        ticket = orjson.loads(body)
        opened = datetime.fromisoformat(ticket["fields"]["opened_at"])
        assert NOW - timedelta(days=7) < opened <= NOW
        shift = opened - row["opened_at"]
        assert shift % timedelta(weeks=1) == timedelta(0)
        assert datetime.fromisoformat(ticket["fields"]["due_at"]) == row["due_at"] + shift
        assert ticket["ticket_id"] == row["ticket_id"] + "-2"
        assert row["ticket_id"] + "-2" in live.ends()


def test_each_run_sends_tickets_that_no_run_has_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tickets, "TICKETS", 2_000)
    plan = Plan.of(tmp_path, NOW)
    assert plan.end_of_history == datetime(2026, 5, 20, tzinfo=UTC)
    simulation = plan.simulation()
    size = simulation.opened_from(plan.end_of_history).tickets.height
    seen: set[str] = set()
    for _ in range(5):
        live, plan = plan.next_live(simulation, size // 2)
        plan.keep(tmp_path)
        ids = set(live.ends())
        assert len(ids) == size // 2
        assert not ids & seen
        seen |= ids
        plan = Plan.of(tmp_path, NOW + timedelta(days=3))
    assert plan.rounds == 2
