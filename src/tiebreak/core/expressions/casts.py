"""cast and try_cast: which types become which, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import polars as pl

from tiebreak.core.expressions.operands import (
    EPOCH,
    INT_MAX,
    INT_MIN,
    Operand,
    as_number,
    boolean,
    code_where,
    first_error,
    integer,
    null_of,
    settled,
)
from tiebreak.core.expressions.scope import Type
from tiebreak.core.expressions.texts import text
from tiebreak.core.expressions.times import FIRST_DAY, LAST_DAY, LocalCalendar

TYPE_NAMES: Mapping[str, Type] = {
    "boolean": Type.BOOLEAN,
    "bool": Type.BOOLEAN,
    "integer": Type.INTEGER,
    "int": Type.INTEGER,
    "bigint": Type.INTEGER,
    "number": Type.NUMBER,
    "double": Type.NUMBER,
    "text": Type.TEXT,
    "varchar": Type.TEXT,
    "date": Type.DATE,
}
_YEAR = "([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DATE_PATTERN = f"^{_YEAR}-[0-9]{{2}}-[0-9]{{2}}$"


def cast(operand: Operand, to: Type, position: int, calendar: LocalCalendar) -> Operand | None:
    """The operand in another type; None when there is no such cast.

    Only the cast's own error is added: `try_cast` puts back the operand's.
    """
    if operand.type is to:
        return settled(operand)
    if operand.type is None:
        return replace(operand, type=to, value=null_of(to))
    if operand.type is Type.TIMESTAMP and to is Type.DATE:
        return calendar.day(operand, position)
    found = _CASTS.get((operand.type, to))
    return None if found is None else found(settled(operand), position)


def _failed(before: pl.Expr, after: pl.Expr, code: str) -> pl.Expr:
    return code_where(before.is_not_null() & after.is_null(), code)


def _number_to_integer(operand: Operand, position: int) -> Operand:
    rounded = operand.value.round(0, mode="half_to_even").cast(pl.Int64, strict=False)
    # The nearest doubles below 2**63 and above -2**63 lie well inside these bounds.
    if operand.low > -9e18 and operand.high < 9e18:
        low, high = int(operand.low) - 1, int(operand.high) + 1
        return integer(rounded, position, operand.error, low, high)
    error = first_error(operand.error, _failed(operand.value, rounded, "overflow"))
    return integer(rounded, position, error, INT_MIN, INT_MAX)


def _text_to_integer(operand: Operand, position: int) -> Operand:
    value = operand.value.cast(pl.Int64, strict=False)
    error = first_error(operand.error, _failed(operand.value, value, "invalid_cast"))
    return integer(value, position, error, INT_MIN, INT_MAX)


def _text_to_number(operand: Operand, position: int) -> Operand:
    parsed = operand.value.cast(pl.Float64, strict=False)
    value = pl.when(parsed.is_finite()).then(parsed)
    error = first_error(operand.error, _failed(operand.value, value, "invalid_cast"))
    return Operand(Type.NUMBER, value, position, error)


def _text_to_boolean(operand: Operand, position: int) -> Operand:
    folded = operand.value.str.to_lowercase()
    value = pl.when(folded == "true").then(True).when(folded == "false").then(False)
    error = code_where(~folded.is_in(["true", "false"]), "invalid_cast")
    return boolean(value, position, first_error(operand.error, error))


def _text_to_date(operand: Operand, position: int) -> Operand:
    shaped = pl.when(operand.value.str.contains(_DATE_PATTERN)).then(operand.value)
    value = shaped.str.to_date("%Y-%m-%d", strict=False)
    error = first_error(operand.error, _failed(operand.value, value, "invalid_cast"))
    low, high = (float(day.toordinal() - EPOCH) for day in (FIRST_DAY, LAST_DAY))
    return Operand(Type.DATE, value, position, error, low=low - 1, high=high + 1)


def _to_text(operand: Operand, position: int) -> Operand:
    return text(operand.value.cast(pl.String), position, operand.error)


def _to_boolean(operand: Operand, position: int) -> Operand:
    return boolean(operand.value != 0, position, operand.error)


def _boolean_to_integer(operand: Operand, position: int) -> Operand:
    return integer(operand.value.cast(pl.Int64), position, operand.error, 0, 1)


_CASTS: Mapping[tuple[Type, Type], Callable[[Operand, int], Operand]] = {
    (Type.INTEGER, Type.NUMBER): lambda operand, _: as_number(operand),
    (Type.NUMBER, Type.INTEGER): _number_to_integer,
    (Type.TEXT, Type.INTEGER): _text_to_integer,
    (Type.TEXT, Type.NUMBER): _text_to_number,
    (Type.TEXT, Type.BOOLEAN): _text_to_boolean,
    (Type.TEXT, Type.DATE): _text_to_date,
    (Type.INTEGER, Type.TEXT): _to_text,
    (Type.NUMBER, Type.TEXT): _to_text,
    (Type.BOOLEAN, Type.TEXT): _to_text,
    (Type.DATE, Type.TEXT): _to_text,
    (Type.INTEGER, Type.BOOLEAN): _to_boolean,
    (Type.NUMBER, Type.BOOLEAN): _to_boolean,
    (Type.BOOLEAN, Type.INTEGER): _boolean_to_integer,
    (Type.BOOLEAN, Type.NUMBER): lambda operand, position: as_number(
        _boolean_to_integer(operand, position)
    ),
}
