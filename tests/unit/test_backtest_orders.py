"""Orders of backtests: what is kept of those that have ended."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.shadowed import RULES, SAMPLE

from tiebreak.backtest import orders as orders_of
from tiebreak.backtest.orders import Order, Orders, UnknownOrder
from tiebreak.backtest.plans import Request
from tiebreak.core.policy import PolicyParts
from tiebreak.registry.policies import Recipe

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
PARTS = PolicyParts(workflow=SAMPLE.name, workflow_version="", rules_version="")
ASKED = Request(SAMPLE.name, Recipe.of(SAMPLE, RULES, PARTS), None, None, None, ())


def put(orders: Orders, minute: int, workflow: str = SAMPLE.name) -> uuid.UUID:
    """An order that was asked for in this minute."""
    asked = replace(ASKED, workflow=workflow)
    order = Order(uuid.uuid4(), asked, 6.0, "ann", MOMENT + timedelta(minutes=minute))
    orders.put(order)
    return order.run_id


def test_the_newest_that_have_ended_are_kept_and_all_that_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_of, "KEPT", 2)
    orders = Orders(tmp_path)
    waits, other = put(orders, 0), put(orders, 1, "other")
    orders.end(other, "finished", MOMENT)
    ended = [put(orders, minute) for minute in range(2, 6)]
    for run_id in ended:
        orders.end(run_id, "finished", MOMENT)
    newest = put(orders, 6)
    assert [each.order.run_id for each in orders.list()] == [newest, *ended[:1:-1], other, waits]
    assert [each.order.run_id for each in orders.open()] == [waits, newest]
    assert len(list(tmp_path.iterdir())) == 5
    with pytest.raises(UnknownOrder):
        orders.get(ended[0])


def test_one_that_is_just_removed_is_none_that_waits(tmp_path: Path) -> None:
    orders = Orders(tmp_path)
    run_id = put(orders, 0)
    (tmp_path / str(run_id) / "order.json").unlink()
    assert list(orders.open()) == list(orders.list()) == []
