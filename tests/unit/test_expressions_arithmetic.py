"""Arithmetic at the edges: every pair of edges, every operator, against Python's exact integers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import polars as pl
import pytest

from tiebreak.core.expressions import Scope, Symbol, Type, compile_expression
from tiebreak.core.workflow import Calendar

LOW, HIGH = -(2**63), 2**63 - 1
INTEGERS = [LOW, LOW + 1, -(2**62), -7, -2, -1, 0, 1, 2, 3, 2**31, 2**53 + 1, 2**62, HIGH]
NUMBERS = [-1.7e308, -1e200, -2.5, -0.0, 0.0, 5e-324, 1e-200, 0.1, 1.0, 3.0, 1e200, 1.7e308]
Answer = tuple[int | float | None, str | None]


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def whole(compute: Callable[[int, int], int]) -> Callable[[int, int], Answer]:
    def answer(a: int, b: int) -> Answer:
        try:
            value = compute(a, b)
        except ZeroDivisionError:
            return None, "division_by_zero"
        return (value, None) if LOW <= value <= HIGH else (None, "overflow")

    return answer


def real(compute: Callable[[float, float], float]) -> Callable[[float, float], Answer]:
    def answer(a: float, b: float) -> Answer:
        try:
            value = compute(a, b)
        except ZeroDivisionError:
            return None, "division_by_zero"
        return (value, None) if math.isfinite(value) else (None, "overflow")

    return answer


WHOLE = {
    "a + b": whole(lambda a, b: a + b),
    "a - b": whole(lambda a, b: a - b),
    "a * b": whole(lambda a, b: a * b),
    "a // b": whole(truncated),
    "a % b": whole(lambda a, b: a - b * truncated(a, b)),
    "-a": whole(lambda a, b: -a),
    "abs(a)": whole(lambda a, b: abs(a)),
    "a / b": real(lambda a, b: float(a) / float(b)),
    "cast(a as number)": real(lambda a, b: float(a)),
    "cast(cast(a as number) as integer)": whole(lambda a, b: round(float(a))),
}
REAL = {
    "x + y": real(lambda x, y: x + y),
    "x - y": real(lambda x, y: x - y),
    "x * y": real(lambda x, y: x * y),
    "x / y": real(lambda x, y: x / y),
    "-x": real(lambda x, y: -x),
    "abs(x)": real(lambda x, y: abs(x)),
    "x * y * 0": real(lambda x, y: x * y * 0),
    "floor(x)": real(lambda x, y: float(math.floor(x)) if abs(x) < 1e15 else x),
    "ceil(x)": real(lambda x, y: float(math.ceil(x)) if abs(x) < 1e15 else x),
    "cast(x as integer)": whole(lambda x, y: round(x)),
}


def evaluate(sql: str, frame: pl.DataFrame, symbols: dict[str, Symbol]) -> list[Answer]:
    compiled = compile_expression(sql, Scope(symbols, Calendar()))
    values = frame.select(compiled.value.alias("v")).to_series().to_list()
    if compiled.error is None:
        return [(value, None) for value in values]
    return list(zip(values, frame.select(compiled.error.alias("e")).to_series(), strict=True))


@pytest.mark.parametrize("sql", WHOLE)
def test_integers(sql: str) -> None:
    pairs = list(itertools.product(INTEGERS, INTEGERS))
    frame = pl.DataFrame(pairs, schema={"a": pl.Int64, "b": pl.Int64}, orient="row")
    symbols = {"a": Symbol(Type.INTEGER), "b": Symbol(Type.INTEGER)}
    assert evaluate(sql, frame, symbols) == [WHOLE[sql](a, b) for a, b in pairs]


@pytest.mark.parametrize("sql", WHOLE)
@pytest.mark.parametrize("bounds", [(0, 9), (-9, 9), (1, 9), (LOW, -1), (2**62, HIGH), (-3, HIGH)])
@pytest.mark.parametrize("bounded", ["a", "b", "ab"])
def test_declared_bounds_change_no_answer(sql: str, bounds: tuple[int, int], bounded: str) -> None:
    low, high = bounds
    inside = sorted({low, low + 1, low + 2, (low + high) // 2, high - 1, high})
    pairs = list(itertools.product(*(inside if name in bounded else INTEGERS for name in "ab")))
    frame = pl.DataFrame(pairs, schema={"a": pl.Int64, "b": pl.Int64}, orient="row")
    symbols = {
        name: Symbol(Type.INTEGER, minimum=low, maximum=high)
        if name in bounded
        else Symbol(Type.INTEGER)
        for name in "ab"
    }
    assert evaluate(sql, frame, symbols) == [WHOLE[sql](a, b) for a, b in pairs]


@pytest.mark.parametrize("sql", REAL)
def test_numbers(sql: str) -> None:
    pairs = list(itertools.product(NUMBERS, NUMBERS))
    frame = pl.DataFrame(pairs, schema={"x": pl.Float64, "y": pl.Float64}, orient="row")
    symbols = {"x": Symbol(Type.NUMBER), "y": Symbol(Type.NUMBER)}
    assert evaluate(sql, frame, symbols) == [REAL[sql](x, y) for x, y in pairs]


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (1e-200, 2.0), (-1e200, 1e200)])
@pytest.mark.parametrize("sql", ["x + y", "x * y", "x / y", "y * y * y", "y / x", "y - y * 2"])
def test_declared_bounds_change_no_number(sql: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    inside = [value for value in NUMBERS if low <= value <= high] + [low, high]
    pairs = list(itertools.product(NUMBERS, inside))
    frame = pl.DataFrame(pairs, schema={"x": pl.Float64, "y": pl.Float64}, orient="row")
    free = {"x": Symbol(Type.NUMBER), "y": Symbol(Type.NUMBER)}
    bounded = {**free, "y": Symbol(Type.NUMBER, minimum=low, maximum=high)}
    assert evaluate(sql, frame, bounded) == evaluate(sql, frame, free)


def test_proven_checks_are_left_out() -> None:
    symbols = {
        "n": Symbol(Type.INTEGER, minimum=0, maximum=1000),
        "z": Symbol(Type.NUMBER, minimum=-100, maximum=100),
    }
    scope = Scope(symbols, Calendar())
    for sql in ("n + 1 > 3", "n * n // 7", "z * z / 3 + n", "n / nullif(n, 0)", "z / (n + 1)"):
        assert compile_expression(sql, scope).error is None, sql
    for sql in ("1 / n", "z / z", "n % n"):
        assert compile_expression(sql, scope).error is not None, sql
