"""DuckDB agrees with us on random tables and expressions, value by value and error by error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import duckdb
import polars as pl
import pytest
from expression_grammar import SCHEMA, SCOPE, ZONE, Pair, expressions, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiebreak.core.expressions import ExpressionError, Type, compile_expression

_COLUMNS = {
    pl.Boolean: "BOOLEAN",
    pl.Int64: "BIGINT",
    pl.Float64: "DOUBLE",
    pl.String: "VARCHAR",
    pl.Datetime: "TIMESTAMPTZ",
    pl.Date: "DATE",
    pl.List: "VARCHAR[]",
}


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("PRAGMA disable_optimizer")  # it folds, and so fails, outside of TRY
    connection.execute(f"SET TimeZone = '{ZONE}'")
    columns = ", ".join(f"{name} {_COLUMNS[dtype.base_type()]}" for name, dtype in SCHEMA.items())
    connection.execute(f"CREATE TABLE rows ({columns})")
    yield connection
    connection.close()


def fill(duck: duckdb.DuckDBPyConnection, frame: pl.DataFrame) -> None:
    """Puts exactly these rows into DuckDB's table."""
    duck.execute("DELETE FROM rows")
    marks = ", ".join("?" for _ in frame.columns)
    duck.executemany(f"INSERT INTO rows VALUES ({marks})", frame.rows())


def ask(
    duck: duckdb.DuckDBPyConnection, sql: str, type_: Type = Type.BOOLEAN
) -> list[tuple[Any, bool]]:
    """For each row the value (a timestamp in microseconds), and whether it was an error."""
    if type_ is Type.TIMESTAMP:
        sql = f"epoch_us({sql})"
    query = f"SELECT TRY({sql}), TRY(({sql}) IS NULL) IS NULL FROM rows ORDER BY rid"
    return duck.execute(query).fetchall()


def evaluate(sql: str, frame: pl.DataFrame) -> list[tuple[Any, bool]]:
    """The same by our compiler."""
    compiled = compile_expression(sql, SCOPE)
    values = frame.select(compiled.value.alias("v")).to_series()
    assert len(values) == frame.height, sql
    if compiled.type is Type.TIMESTAMP:
        values = values.dt.timestamp("us")
    if compiled.error is None:
        return [(value, False) for value in values]
    codes = frame.select(compiled.error.alias("e")).to_series()
    return [(value, code is not None) for value, code in zip(values, codes, strict=True)]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(frame=tables(), drawn=st.lists(expressions(), min_size=4, max_size=8))
def test_value_and_error_equal_the_oracles(
    duck: duckdb.DuckDBPyConnection, frame: pl.DataFrame, drawn: list[tuple[Type, Pair]]
) -> None:
    fill(duck, frame)
    for type_, pair in drawn:
        try:
            ours = evaluate(pair.ours, frame)
        except ExpressionError as error:
            assert "too complex" in str(error) or "never is" in str(error), pair.ours  # noqa: PT017
            continue
        theirs = ask(duck, pair.duck, type_)
        assert [_comparable(each) for each in ours] == [_comparable(each) for each in theirs], (
            pair.ours
        )


def _comparable(result: tuple[Any, bool]) -> tuple[Any, bool]:
    value, is_error = result
    if isinstance(value, float):
        assert math.isfinite(value)
    return value, is_error


_ATOMS = st.sampled_from(["s", "z", "1", "2", "-3", "7", "rid"])
_SUMS = st.lists(st.tuples(_ATOMS, st.sampled_from(["+", "-", "*"])), min_size=1, max_size=4).map(
    lambda parts: " ".join(f"{atom} {operator}" for atom, operator in parts) + " 5"
)


@st.composite
def _flat(draw: st.DrawFn) -> str:
    """A condition with hardly any parentheses: what binds tighter must be agreed upon."""
    words: list[str] = []
    for number in range(draw(st.integers(1, 4))):
        if number:
            words.append(draw(st.sampled_from(["AND", "OR"])))
        words += ["NOT"] * draw(st.integers(0, 2))
        form = draw(st.integers(0, 6))
        first, second = draw(_SUMS), draw(_SUMS)
        operator = draw(st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "!="]))
        words.append(
            [
                f"{first} {operator} {second}",
                f"{first} {operator} {second} IS NOT TRUE",
                f"{first} BETWEEN {second} AND 9 + s",
                f"{first} NOT IN (1, {second})",
                f"{first} IS NULL",
                "t || 'a' LIKE '%a'",
                "p IS NOT DISTINCT FROM q",
            ][form]
        )
    return " ".join(words)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(frame=tables(), sql=_flat())
def test_precedence_is_the_oracles(
    duck: duckdb.DuckDBPyConnection, frame: pl.DataFrame, sql: str
) -> None:
    fill(duck, frame)
    assert evaluate(sql, frame) == ask(duck, sql), sql
