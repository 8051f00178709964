"""What an expression gives for a row depends on that row alone, bit for bit, and never raises."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime

import polars as pl
import pytest
from expression_grammar import SCHEMA, SCOPE, Pair, expressions, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiebreak.core.expressions import (
    Expression,
    ExpressionError,
    Scope,
    Symbol,
    Type,
    compile_expression,
)
from tiebreak.core.expressions.prepared import Prepared


def bits(series: pl.Series) -> pl.Series:
    """The series with doubles as their bits, but for the two zeros, which are one number."""
    if series.dtype != pl.Float64:
        return series
    return (series + 0.0).reinterpret(signed=True)


def evaluate(compiled: Expression, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    value = frame.select(compiled.value.alias("v")).to_series()
    if compiled.error is None:
        return bits(value), pl.Series("e", [None] * frame.height, dtype=pl.String)
    return bits(value), frame.select(compiled.error.alias("e")).to_series()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(tables(), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
    drawn=st.lists(expressions(), min_size=1, max_size=3),
)
def test_any_batch_gives_the_same_bits(
    parts: list[pl.DataFrame], seed: int, drawn: list[tuple[Type, Pair]]
) -> None:
    rows = pl.concat(parts)
    chosen = random.Random(seed).choices(range(rows.height), k=130)
    frame = rows[chosen].with_columns(rid=pl.int_range(130)).cast(SCHEMA)
    for type_, pair in drawn:
        try:
            compiled = compile_expression(pair.ours, SCOPE)
        except ExpressionError as error:
            assert "too complex" in str(error) or "never is" in str(error)  # noqa: PT017
            continue
        assert compiled.type is type_
        value, error = evaluate(compiled, frame)
        assert frame.select(compiled.value.alias("v")).dtypes == [type_.dtype]
        assert not (value.is_not_null() & error.is_not_null()).any()
        for size in (1, 2, 7, 64):
            batches = [evaluate(compiled, batch) for batch in frame.iter_slices(size)]
            assert pl.concat([each for each, _ in batches]).equals(value), (size, pair.ours)
            assert pl.concat([each for _, each in batches]).equals(error), (size, pair.ours)
        nothing = frame.head(0).select(compiled.value.alias("v"))
        assert nothing.height == 0
        assert nothing.dtypes == [type_.dtype]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=tables(),
    drawn=st.lists(expressions(), min_size=1, max_size=6),
)
def test_prepared_expressions_give_the_bits_of_a_query(
    rows: pl.DataFrame, drawn: list[tuple[Type, Pair]]
) -> None:
    frame = rows.with_columns(rid=pl.int_range(rows.height)).cast(SCHEMA)
    columns, symbols = list[pl.Expr](), dict(SCOPE.symbols)
    for number, (_, pair) in enumerate(drawn):
        try:
            compiled = compile_expression(pair.ours, Scope(symbols, SCOPE.calendar))
        except ExpressionError:
            continue
        columns.append(compiled.value.alias(f"made{number}"))
        if compiled.type is not Type.TAGS:
            symbols[f"made{number}"] = Symbol(compiled.type)
        if compiled.error is not None:
            columns.append(compiled.error.alias(f"error{number}"))
        if compiled.type is Type.BOOLEAN:
            columns.append(compiled.value.fill_null(value=False).alias(f"holds{number}"))
    columns += [_twice(each) for each in columns if each.meta.output_name() in symbols]
    for part in (frame, frame.head(0), frame.head(1)):
        queried = part
        for column in columns:
            queried = queried.with_columns(column)
        made = part.hstack(Prepared(columns, dict(part.schema)).evaluate(part))
        assert made.schema == queried.schema
        for name in made.columns:
            assert bits(made[name]).equals(bits(queried[name])), (name, [p.ours for _, p in drawn])


OPERATORS = [
    *(
        f"{a} {o} {b}"
        for o in ("=", "<>", "<", "<=", ">", ">=")
        for a, b in ("ij", "xy", "st", "de")
    ),
    *(f"{a} {o} {b}" for o in "+-*/" for a, b in ("ij", "xy", "xi", ("x", "2"), ("3.5", "y"))),
    *(
        "p = q",
        "p <> q",
        "p AND q",
        "p OR NOT q",
        "NOT (p AND x < y)",
        "p IS NOT TRUE",
        "q IS FALSE",
    ),
    *(
        "i // j",
        "i % 7",
        "-i",
        "abs(x)",
        "i * j > 50",
        "i * 3 + j * 5",
        "x * x * y",
        "x = 1",
        "m < n",
    ),
    *("CASE WHEN p THEN x WHEN q THEN y END", "CASE WHEN p THEN 's' ELSE t END", "coalesce(x, y)"),
    *("cast(i as number)", "cast(x as integer)", "cast(p as integer)", "nullif(i, j)", "x IS NULL"),
    *("x / y > 2 AND p", "p OR x / y > 2", "i * j = 4 OR q", "least(x, y)", "upper(s) = 'A' OR p"),
    *("x BETWEEN y AND 5", "s IN ('a', 'b')", "1 = 1", "2 > 3 AND p", "cast(NULL as number) > x"),
    *("geo_distance(x, y, 1, 2) < 1e6", "hours_between(m, n) > 1", "days_between(d, e) < 3"),
    *("days_between(m, n) / 2", "coalesce(i, j, 5) IS NOT NULL", "coalesce(s, upper(t), 'z')"),
    *("coalesce(p, q) IS NULL", "has(g, 'a') OR x > y", "has_any(g, 'a', 'b') IS NULL"),
]


@pytest.mark.parametrize("sql", OPERATORS)
def test_every_operator_gives_prepared_what_it_gives_in_a_query(sql: str) -> None:
    values: dict[str, list[object]] = {
        "i": [None, 0, 1, 2, -7, 2**63 - 1, -(2**63)],
        "x": [None, 0.0, -0.0, 1.0, 2.5, -1e300, 1.7e308],
        "s": [None, "", "a", "b", "ä"],
        "d": [None, date(2020, 1, 1), date(2024, 2, 29)],
        "m": [None, datetime(2020, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, 1, tzinfo=UTC)],
        "p": [None, True, False],
        "g": [None, [], ["a"], ["b", "c"]],
    }
    types = {"i": Type.INTEGER, "x": Type.NUMBER, "s": Type.TEXT, "d": Type.DATE}
    types |= {"m": Type.TIMESTAMP, "p": Type.BOOLEAN, "g": Type.TAGS}
    pairs: dict[str, list[object]] = {}
    symbols: dict[str, Symbol] = {}
    for name, each in values.items():
        other = chr(ord(name) + 1)
        pairs[name] = [a for a in each for _ in each]
        pairs[other] = [b for _ in each for b in each]
        symbols |= {name: Symbol(types[name]), other: Symbol(types[name])}
    height = max(len(column) for column in pairs.values())
    scope = Scope(symbols, SCOPE.calendar)
    rows = {n: (c * height)[:height] for n, c in pairs.items()}
    frame = pl.DataFrame(rows, schema=scope.schema)
    compiled = compile_expression(sql, scope)
    columns = [compiled.value.alias("value"), (~compiled.value.is_null()).alias("known")]
    if compiled.error is not None:
        columns.append(compiled.error.alias("error"))
    if compiled.type is Type.BOOLEAN:
        columns.append(compiled.value.fill_null(value=False).alias("holds"))
    for part in (frame, frame.head(0), frame.head(1), frame.slice(9, 1)):
        queried = part.select(columns)
        prepared = pl.DataFrame(Prepared(columns, scope.schema).evaluate(part))
        assert prepared.schema == queried.schema
        for column in queried.columns:
            assert bits(prepared[column]).equals(bits(queried[column])), (column, part)


@pytest.mark.parametrize(
    "sql", [" OR ".join(["p", "q"] * 249), "+".join(["x"] * 95) + " > 1", "NOT " * 30 + "p"]
)
def test_what_nests_deep_is_prepared_too(sql: str) -> None:
    compiled = compile_expression(sql, SCOPE)
    columns: dict[str, list[object]] = {"p": [True, False, None], "q": [False, False, True]}
    frame = pl.DataFrame(columns | {"x": [1.0, 1e-3, None]})
    (value,) = Prepared([compiled.value.alias("value")], SCOPE.schema).evaluate(frame)
    assert value.equals(frame.select(compiled.value.alias("value")).to_series())


def test_a_part_without_content_goes_through_the_query() -> None:
    frame = pl.DataFrame({"p": [True, False]})
    made = Prepared([pl.len().alias("count")], {"p": pl.Boolean()}).evaluate(frame)
    assert made[0].to_list() == [2, 2]


def test_no_rows_give_none_where_polars_gives_one() -> None:
    frame = pl.DataFrame(schema={"s": pl.String(), "p": pl.Boolean()})
    unknown = pl.lit(None, dtype=pl.String).str.contains(pl.col("s"), literal=True)
    columns = [unknown.alias("unknown"), pl.col("s").str.len_chars().alias("length")]
    made = Prepared(columns, frame.schema).evaluate(frame)
    assert [len(each) for each in made] == [0, 0]


def _twice(column: pl.Expr) -> pl.Expr:
    """An expression that reads one before it."""
    name = column.meta.output_name()
    return pl.col(name).is_not_null().alias(f"{name}_known")


@pytest.mark.parametrize("divisor", ["7.3", "3", "z / z * 7.3", "CASE WHEN p THEN 7.3 ELSE y END"])
def test_a_quotient_is_rounded_alike_alone_and_in_a_batch(divisor: str) -> None:
    numbers = [random.Random(i).random() * 1000 for i in range(200)]
    frame = pl.DataFrame({"x": numbers}).with_columns(z=pl.lit(3.0), p=pl.lit(value=True), y=1.0)
    compiled = compile_expression(f"x / ({divisor})", SCOPE)
    together = frame.select(compiled.value.alias("v")).to_series()
    alone = pl.concat(
        [batch.select(compiled.value.alias("v")) for batch in frame.iter_slices(1)]
    ).to_series()
    assert together.equals(alone)
    assert together.to_list() == [x / (3 if divisor == "3" else 7.3) for x in numbers]
