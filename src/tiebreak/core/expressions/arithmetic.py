"""Arithmetic that never wraps and never leaves a NaN or an infinity behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from tiebreak.core.expressions.operands import (
    FLOAT_MAX,
    FLOAT_SAFE,
    INT_MAX,
    INT_MIN,
    Operand,
    as_number,
    code_where,
    first_error,
    integer,
    quotient,
    settled,
)
from tiebreak.core.expressions.scope import Type

_OPERATIONS: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def compute(operator: str, left: Operand, right: Operand, position: int) -> Operand:
    """`left operator right` for + - * / // %, both INTEGER or NUMBER."""
    if operator == "/":
        is_whole = right.type is Type.INTEGER
        return _divide(settled(as_number(left)), settled(as_number(right)), is_whole, position)
    if operator in ("//", "%"):
        return _integer_divide(operator, left, right, position)
    low, high = _bounds(operator, left, right)
    if left.type is Type.INTEGER and right.type is Type.INTEGER:
        return _compute_integer(operator, left, right, position, int(low), int(high))
    left, right = as_number(left), as_number(right)
    # A NaN or an infinity stays one through + - *, so a chain of them is checked once, at its end.
    is_proven = low > -FLOAT_SAFE and high < FLOAT_SAFE
    return Operand(
        Type.NUMBER,
        _OPERATIONS[operator](left.value, right.value),
        position,
        first_error(left.error, right.error),
        low=low if is_proven else -FLOAT_MAX,
        high=high if is_proven else FLOAT_MAX,
        is_raw=left.is_raw or right.is_raw or not is_proven,
    )


def _bounds(operator: str, left: Operand, right: Operand) -> tuple[float, float]:
    """The least and greatest results, exact for integers."""
    if operator == "+":
        return left.low + right.low, left.high + right.high
    if operator == "-":
        return left.low - right.high, left.high - right.low
    products = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return min(products), max(products)


def _compute_integer(
    operator: str, left: Operand, right: Operand, position: int, low: int, high: int
) -> Operand:
    error = first_error(left.error, right.error)
    operation = _OPERATIONS[operator]
    if low >= INT_MIN and high <= INT_MAX:
        return integer(operation(left.value, right.value), position, error, low, high)
    # Two 64-bit operands always have room in 128 bits.
    wide = operation(left.value.cast(pl.Int128), right.value.cast(pl.Int128))
    value = wide.cast(pl.Int64, strict=False)
    overflow = code_where((wide > INT_MAX) | (wide < INT_MIN), "overflow")
    return integer(value, position, first_error(error, overflow), low, high)


def _can_be_zero(operand: Operand) -> bool:
    return operand.low <= 0 <= operand.high and not operand.is_nonzero


def _divide(left: Operand, right: Operand, is_whole: bool, position: int) -> Operand:
    error = first_error(left.error, right.error)
    can_be_zero = _can_be_zero(right)
    divisor = right.value
    if can_be_zero:
        is_zero = divisor == 0.0
        divided = is_zero & left.value.is_not_null()
        error = first_error(error, code_where(divided, "division_by_zero"))
        divisor = pl.when(~is_zero).then(divisor)
    largest = max(abs(left.low), abs(left.high))
    smallest = 5e-324 if right.low <= 0 <= right.high else min(abs(right.low), abs(right.high))
    if is_whole:
        smallest = max(smallest, 1.0)
    bound = largest / smallest if smallest >= 1e-300 else FLOAT_MAX
    is_proven = bound < FLOAT_SAFE
    return Operand(
        Type.NUMBER,
        quotient(left.value, divisor),
        position,
        error,
        low=-bound if is_proven else -FLOAT_MAX,
        high=bound if is_proven else FLOAT_MAX,
        is_raw=not is_proven,
    )


def _integer_divide(operator: str, left: Operand, right: Operand, position: int) -> Operand:
    """`//` rounds towards zero and `%` takes the sign of its left operand, as in SQL."""
    error = first_error(left.error, right.error)
    divisor = right.value
    if _can_be_zero(right):
        divided = (divisor == 0) & left.value.is_not_null()
        error = first_error(error, code_where(divided, "division_by_zero"))
        divisor = pl.when(divisor != 0).then(divisor)
    largest = int(max(abs(left.low), abs(left.high)))
    if left.low >= 0 and right.low >= 0:
        floored = left.value // divisor if operator == "//" else left.value % divisor
        return integer(floored, position, error, 0, largest)
    dividend = left.value.cast(pl.Int128)
    magnitude, by = dividend.abs(), divisor.cast(pl.Int128).abs()
    if operator == "%":
        value = ((magnitude % by) * dividend.sign()).cast(pl.Int64, strict=False)
        return integer(value, position, error, min(int(left.low), 0), max(int(left.high), 0))
    wide = (magnitude // by) * dividend.sign() * divisor.sign().cast(pl.Int128)
    if largest > INT_MAX and right.low <= -1 <= right.high:
        error = first_error(error, code_where(wide > INT_MAX, "overflow"))
    return integer(wide.cast(pl.Int64, strict=False), position, error, -largest, largest)


def negate(operand: Operand, position: int) -> Operand:
    """`-x`; the smallest INTEGER has no opposite."""
    if operand.type is Type.NUMBER:
        return replace(
            operand,
            value=-operand.value,
            position=position,
            low=-operand.high,
            high=-operand.low,
            literal=None,
            symbol="",
        )
    zero = integer(pl.lit(0, dtype=pl.Int64), position, None, 0, 0)
    return compute("-", zero, operand, position)


def absolute(operand: Operand, position: int) -> Operand:
    """`abs(x)`; the smallest INTEGER has no magnitude of its own type."""
    largest = max(abs(operand.low), abs(operand.high))
    if operand.type is Type.NUMBER:
        operand = settled(operand)
        return Operand(
            Type.NUMBER, operand.value.abs(), position, operand.error, low=0.0, high=largest
        )
    if operand.low > INT_MIN:
        return integer(operand.value.abs(), position, operand.error, 0, int(largest))
    smallest = operand.value == INT_MIN
    error = first_error(operand.error, code_where(smallest, "overflow"))
    value = pl.when(~smallest).then(operand.value).abs()
    return integer(value, position, error, 0, INT_MAX)
