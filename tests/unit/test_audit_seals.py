"""Leaves commit to every column, seals to everything before them."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Boolean, DateTime, Double, LargeBinary, SmallInteger, Table

from tiebreak.audit.records import SEALED
from tiebreak.audit.seals import (
    NO_HEAD,
    Seal,
    canonical,
    leaf,
    place,
    remainder,
    sealed_columns,
)
from tiebreak.store.tables import decisions, tickets

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEAL = Seal(uuid.UUID(int=5), 7, NOW, b"l" * 64, "k1")
KEY, PREVIOUS = b"k" * 32, b"p" * 32


def some(table: Table, column: str, variant: int = 0) -> Any:
    """A value of the column's type; variants differ."""
    match table.columns[column].type:
        case DateTime():
            return NOW + timedelta(microseconds=variant)
        case Double():
            return 0.1 + variant
        case LargeBinary():
            return bytes([variant])
        case Boolean():
            return bool(variant)
        case BigInteger() | SmallInteger():
            return variant
        case kind if kind.python_type is int:
            return variant
        case kind if kind.python_type is uuid.UUID:
            return uuid.UUID(int=variant)
        case _:
            return f"text {variant}"


@pytest.mark.parametrize("table", SEALED, ids=lambda table: table.name)
def test_a_leaf_depends_on_every_column(table: Table) -> None:
    row = {name: some(table, name) for name in sealed_columns(table)}
    whole = leaf(table, row, b"s" * 16)
    for name in row:
        assert leaf(table, row | {name: some(table, name, 1)}, b"s" * 16) != whole
        assert leaf(table, row | {name: None}, b"s" * 16) != whole
    assert leaf(table, row, b"t" * 16) != whole
    assert leaf(table, row | {"seal_position": 9}, b"s" * 16) == whole


def test_no_table_with_a_salt_is_left_out() -> None:
    assert len(SEALED) == 18
    assert {"salt", "lane", "seal_seq", "seal_position"}.isdisjoint(sealed_columns(tickets))


def test_a_column_added_later_leaves_old_leaves_alone() -> None:
    assert canonical(tickets, {"actor": "ann"}) == canonical(
        tickets, {"actor": "ann", "context": None}
    )
    assert canonical(tickets, {"actor": "ann", "later": 1}) == canonical(tickets, {"actor": "ann"})


@given(a=st.floats(), b=st.floats())
def test_floats_count_by_their_bits(a: float, b: float) -> None:
    same = canonical(decisions, {"score": a}) == canonical(decisions, {"score": b})
    assert same == ((a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b))


def test_a_remainder_is_no_leaf() -> None:
    assert remainder(tickets, {"actor": "ann"}) != leaf(tickets, {"actor": "ann"}, b"")


@pytest.mark.parametrize(
    "other",
    [
        Seal(uuid.UUID(int=6), 7, NOW, b"l" * 64, "k1"),
        Seal(uuid.UUID(int=5), 8, NOW, b"l" * 64, "k1"),
        Seal(uuid.UUID(int=5), 7, NOW + timedelta(microseconds=1), b"l" * 64, "k1"),
        Seal(uuid.UUID(int=5), 7, NOW, b"l" * 63 + b"m", "k1"),
        Seal(uuid.UUID(int=5), 7, NOW, b"l" * 64, "k2"),
    ],
)
def test_a_head_depends_on_everything(other: Seal) -> None:
    assert other.head(PREVIOUS, KEY) != SEAL.head(PREVIOUS, KEY)


def test_a_head_depends_on_key_and_history() -> None:
    assert SEAL.head(NO_HEAD, KEY) != SEAL.head(PREVIOUS, KEY)
    assert SEAL.head(PREVIOUS, b"x" * 32) != SEAL.head(PREVIOUS, KEY)
    assert (SEAL.size, SEAL.leaf(1), SEAL.leaf(2)) == (2, b"l" * 32, b"")


@given(st.lists(st.tuples(st.uuids(), st.integers(1, 2**62), st.integers(0, 2**30)), max_size=9))
def test_places_sort_like_their_parts(parts: list[tuple[uuid.UUID, int, int]]) -> None:
    assert sorted(parts, key=lambda p: (p[0].bytes, *p[1:])) == sorted(
        parts, key=lambda p: place(*p)
    )
