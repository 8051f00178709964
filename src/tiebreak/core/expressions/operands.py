"""A typed, compiled part of an expression: its value, its error and what is known of both.

Two rules keep evaluation total. Where a row has an error its value is NULL. And a value is
built from each operand's value as few times as can be, since Polars expands shared parts: what
still grows too large is refused by `Compilation.seal`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl

from tiebreak.core.expressions.scope import Type

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
EPOCH = date(1970, 1, 1).toordinal()
FLOAT_MAX = 1.7976931348623157e308
# Far enough below FLOAT_MAX that the rounding of a bound cannot matter.
FLOAT_SAFE = 1e300


@dataclass(frozen=True, eq=False, slots=True)
class Operand:
    """One compiled part.

    `type` None is a bare NULL, which fits any type. `low` and `high` bound the value of an
    INTEGER or NUMBER, and of a DATE or TIMESTAMP in days since 1970. `is_raw` marks a NUMBER
    whose value may still be NaN or infinite, which stands for the error "overflow"; `settled`
    turns it into NULL plus that error. `texts` are all the values a TEXT (or the entries of
    TAGS) can have, where that is known. `is_nonzero` marks a number that is never 0. `literal`
    is the value of a constant as written.
    """

    type: Type | None
    value: pl.Expr
    position: int
    error: pl.Expr | None = None
    low: float = -FLOAT_MAX
    high: float = FLOAT_MAX
    is_raw: bool = False
    texts: frozenset[str] | None = None
    is_nonzero: bool = False
    literal: Any = None
    symbol: str = ""  # the column's name where the part is a bare column


def constant(value: Any, type_: Type, position: int) -> Operand:
    """The operand of a constant."""
    expr = pl.lit(value, dtype=type_.dtype)
    if type_ is Type.TEXT:
        return Operand(type_, expr, position, texts=frozenset({value}), literal=value)
    if type_ in (Type.INTEGER, Type.NUMBER):
        return Operand(type_, expr, position, low=value, high=value, literal=value)
    if type_ in (Type.DATE, Type.TIMESTAMP):
        day = float(value.toordinal() - EPOCH)
        return Operand(type_, expr, position, low=day, high=day + 1, literal=value)
    return Operand(type_, expr, position, literal=value)


def integer(value: pl.Expr, position: int, error: pl.Expr | None, low: int, high: int) -> Operand:
    """An INTEGER operand within bounds, which never reach past 64 bits."""
    return Operand(
        Type.INTEGER,
        value,
        position,
        error,
        low=max(low, INT_MIN),
        high=min(high, INT_MAX),
    )


def boolean(value: pl.Expr, position: int, error: pl.Expr | None) -> Operand:
    """A BOOLEAN operand."""
    return Operand(Type.BOOLEAN, value, position, error)


def null_of(type_: Type) -> pl.Expr:
    """NULL as a column of this type."""
    return pl.lit(None, dtype=type_.dtype)


def code_where(condition: pl.Expr, code: str) -> pl.Expr:
    """The error expression that says `code` where the condition is true, else null."""
    return pl.when(condition).then(pl.lit(code)).otherwise(pl.lit(None, dtype=pl.String))


def first_error(*errors: pl.Expr | None) -> pl.Expr | None:
    """The first error that is not null, row by row; None when none of them can occur."""
    present = [each for each in errors if each is not None]
    if len(present) < 2:
        return present[0] if present else None
    return pl.coalesce(present)


def pick(mask: pl.Expr, then: pl.Expr, otherwise: pl.Expr) -> pl.Expr:
    """`then` where the mask is true, else `otherwise`.

    A mask that reads no column is decided now: Polars would give one row for all of them.
    """
    if mask.meta.root_names():
        return pl.when(mask).then(then).otherwise(otherwise)
    return then if pl.select(mask).item() is True else otherwise


def masked(value: pl.Expr, error: pl.Expr | None, type_: Type) -> pl.Expr:
    """The value, NULL where there is an error."""
    return value if error is None else pick(error.is_null(), value, null_of(type_))


def quotient(dividend: pl.Expr, divisor: pl.Expr) -> pl.Expr:
    """A finite NUMBER divided by another, correctly rounded in a batch of any size.

    Polars divides a column by a single value (a constant, or a column it knows to be constant)
    as a product with the reciprocal, which often differs in the last bit, but not where the
    column has one row. Adding a zero from each row makes the divisor a value of its own there.
    """
    return dividend / (divisor + dividend * 0.0)


def settled(operand: Operand) -> Operand:
    """The operand with NaN and infinities turned into NULL and the error "overflow"."""
    if not operand.is_raw:
        return operand
    is_finite = operand.value.is_finite()
    return replace(
        operand,
        value=pl.when(is_finite).then(operand.value),
        error=first_error(operand.error, code_where(~is_finite, "overflow")),
        is_raw=False,
    )


def as_number(operand: Operand) -> Operand:
    """An INTEGER (or NUMBER) operand as a NUMBER: the nearest double, ties to even."""
    if operand.type is not Type.INTEGER:
        return operand
    low, high = float(operand.low), float(operand.high)
    if operand.literal is not None:
        return constant(float(operand.literal), Type.NUMBER, operand.position)
    return replace(
        operand, type=Type.NUMBER, value=operand.value.cast(pl.Float64), low=low, high=high
    )
