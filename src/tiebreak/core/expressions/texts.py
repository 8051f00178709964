"""Text functions; characters are Unicode code points, counted from 1."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from tiebreak.core.expressions.operands import (
    Operand,
    code_where,
    first_error,
    integer,
    null_of,
    pick,
)
from tiebreak.core.expressions.scope import Type

MAX_TEXT_BYTES = 100_000  # of a text that an expression makes; columns may hold longer ones
_LONGEST = 2**31
_NULL = null_of(Type.TEXT)


def text(value: pl.Expr, position: int, *errors: pl.Expr | None) -> Operand:
    """A TEXT operand."""
    return Operand(Type.TEXT, value, position, first_error(*errors))


def concatenate(operands: Sequence[Operand], position: int) -> Operand:
    """`a || b`: NULL when one of them is; "text_too_long" past `MAX_TEXT_BYTES`."""
    values = [null_of(Type.TEXT) if each.type is None else each.value for each in operands]
    total = pl.sum_horizontal(
        [value.str.len_bytes().cast(pl.Int64) for value in values], ignore_nulls=False
    )
    too_long = total > MAX_TEXT_BYTES
    return text(
        pl.when(~too_long).then(pl.concat_str(values)),
        position,
        *(each.error for each in operands),
        code_where(too_long, "text_too_long"),
    )


def lower(operand: Operand, position: int) -> Operand:
    """`lower(x)` by the full Unicode mapping."""
    return text(operand.value.str.to_lowercase(), position, operand.error)


def upper(operand: Operand, position: int) -> Operand:
    """`upper(x)` by the full Unicode mapping: ß becomes SS."""
    return text(operand.value.str.to_uppercase(), position, operand.error)


def trim(operand: Operand, position: int) -> Operand:
    """`trim(x)`: without Unicode white space at either end."""
    return text(operand.value.str.strip_chars(), position, operand.error)


def length(operand: Operand, position: int) -> Operand:
    """`length(x)` in characters."""
    value = operand.value.str.len_chars().cast(pl.Int64)
    return integer(value, position, operand.error, 0, _LONGEST)


def substr(operand: Operand, start: Operand, count: Operand | None, position: int) -> Operand:
    """`substr(x, start[, count])`: the characters that exist of those asked for.

    As in standard SQL a start before 1 uses up characters that do not exist, and a negative
    count is an error.
    """
    errors = [operand.error, start.error]
    # No text has more characters: clipping changes no result and keeps the sums in 64 bits.
    begin = start.value.clip(-_LONGEST, _LONGEST)
    if count is None:
        value = operand.value.str.slice((begin - 1).clip(lower_bound=0))
        return text(pick(begin.is_not_null(), value, _NULL), position, *errors)
    wanted = count.value.clip(-1, _LONGEST * 2)
    errors.append(count.error)
    if count.low < 0:
        present = operand.value.is_not_null() & begin.is_not_null()
        errors.append(code_where((wanted < 0) & present, "out_of_range"))
        wanted = pl.when(wanted >= 0).then(wanted)
    if start.low < 1:
        wanted = (wanted + (begin - 1).clip(upper_bound=0)).clip(lower_bound=0)
    value = operand.value.str.slice((begin - 1).clip(lower_bound=0), wanted)
    known = begin.is_not_null() & wanted.is_not_null()
    return text(pick(known, value, _NULL), position, *errors)


def replace_all(operand: Operand, old: str, new: str, position: int) -> Operand:
    """`replace(x, 'old', 'new')`, left to right without overlap, letter case as written."""
    value = operand.value
    growth = len(new.encode()) - len(old.encode())
    too_long_error = None
    if growth > 0:
        count = value.str.count_matches(old, literal=True).cast(pl.Int64)
        too_long = value.str.len_bytes().cast(pl.Int64) + count * growth > MAX_TEXT_BYTES
        too_long_error = code_where(too_long, "text_too_long")
        value = pl.when(~too_long).then(value)  # before it grows, not after
    replaced = value.str.replace_all(old, new, literal=True)
    return text(replaced, position, operand.error, too_long_error)
