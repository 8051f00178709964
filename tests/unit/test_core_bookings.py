"""Bookings: the text that an entity is known by."""

from __future__ import annotations

import polars as pl
from tests.store_samples import WORKFLOW

from tiebreak.core.bookings import KEY_SEPARATOR
from tiebreak.core.history import HistoryPlan
from tiebreak.core.workflow import Entity


def texts_of(*key: str) -> list[str | None]:
    entities = tuple(
        Entity(name=entity.name, key=key if entity.name == "digger" else entity.key)
        for entity in WORKFLOW.entities
    )
    plan = HistoryPlan(WORKFLOW.model_copy(update={"entities": entities}))
    frame = pl.DataFrame(
        {"digger": ["Bob", None, "Eve"], "place": ["a", "b", None], "depth": [1, 2, 3]},
        schema_overrides={"depth": pl.Int64},
    )
    return plan.entity_texts(frame)["digger"]


def test_a_field_is_a_key_as_it_stands() -> None:
    assert texts_of("digger") == ["Bob", None, "Eve"]


def test_parts_of_a_key_are_joined_and_a_missing_one_leaves_none() -> None:
    assert texts_of("digger", "place") == [f"Bob{KEY_SEPARATOR}a", None, None]


def test_expressions_and_numbers_are_keys_too() -> None:
    assert texts_of("depth") == ["1", "2", "3"]
    assert texts_of("lower(digger)", "depth") == [
        f"bob{KEY_SEPARATOR}1",
        None,
        f"eve{KEY_SEPARATOR}3",
    ]
    assert texts_of("'all'") == ["all", "all", "all"]
