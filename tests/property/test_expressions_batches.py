"""What an expression gives for a row depends on that row alone, bit for bit, and never raises."""

from __future__ import annotations

import random

import polars as pl
import pytest
from expression_grammar import SCHEMA, SCOPE, Pair, expressions, tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiebreak.core.expressions import Expression, ExpressionError, Type, compile_expression


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
