"""Three-valued logic and choice: AND, OR, NOT, IS, CASE, COALESCE, NULLIF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

import polars as pl

from tiebreak.core.expressions.operands import (
    Operand,
    as_number,
    boolean,
    first_error,
    masked,
    null_of,
    pick,
    settled,
)
from tiebreak.core.expressions.scope import Type

_NO_CODE = pl.lit(None, dtype=pl.String)


def junction(word: str, operands: Sequence[Operand], position: int) -> Operand:
    """AND or OR by Kleene: an operand that decides alone silences the others' errors.

    The value needs no mask: an error's NULL gives NULL unless the result is decided anyway.
    """
    is_and = word == "and"
    values = [operand.value for operand in operands]
    value = _joined(values, lambda a, b: a & b if is_and else a | b)
    error = first_error(*(operand.error for operand in operands))
    if error is not None:
        decided = value.eq_missing(pl.lit(not is_and))
        error = pick(~decided, error, _NO_CODE)
    return boolean(value, position, error)


def _joined(values: list[pl.Expr], join: Callable[[pl.Expr, pl.Expr], pl.Expr]) -> pl.Expr:
    """All values joined, two by two, so that many do not nest deep."""
    while len(values) > 1:
        pairs = zip_longest(values[::2], values[1::2])
        values = [left if right is None else join(left, right) for left, right in pairs]
    return values[0]


def test_is(operand: Operand, value: bool | None, is_negated: bool, position: int) -> Operand:
    """`IS [NOT] NULL|TRUE|FALSE`, never NULL but for an error of the operand."""
    operand = settled(operand)
    if value is None:
        result = operand.value.is_not_null() if is_negated else operand.value.is_null()
    else:
        wanted = pl.lit(value)
        compare = operand.value.ne_missing if is_negated else operand.value.eq_missing
        result = compare(wanted)
    return boolean(masked(result, operand.error, Type.BOOLEAN), position, operand.error)


def common_type(operands: Sequence[Operand]) -> Type | None:
    """The one type that all operands have or widen to; None when there is none.

    Only NULLs (no type at all) also give None: the caller tells the two apart.
    """
    types = {operand.type for operand in operands if operand.type is not None}
    if types == {Type.INTEGER, Type.NUMBER}:
        return Type.NUMBER
    return types.pop() if len(types) == 1 else None


def unify(operands: Sequence[Operand], type_: Type) -> list[Operand]:
    """The operands in one type, settled."""
    unified: list[Operand] = []
    for operand in operands:
        if operand.type is None:
            unified.append(replace(operand, type=type_, value=null_of(type_)))
        else:
            converted = as_number(operand) if type_ is Type.NUMBER else operand
            unified.append(settled(converted))
    return unified


def _joint(type_: Type, given: Sequence[Operand], operands: Sequence[Operand]) -> Operand:
    """What is known of a value that is one of several; NULLs tell nothing."""
    known = [new for old, new in zip(given, operands, strict=True) if old.type is not None]
    texts: frozenset[str] | None = frozenset()
    for operand in known:
        texts = None if texts is None or operand.texts is None else texts | operand.texts
    return Operand(
        type_,
        null_of(type_),
        given[0].position,
        low=min(operand.low for operand in known),
        high=max(operand.high for operand in known),
        texts=texts if type_ is Type.TEXT else None,
    )


def choose(
    conditions: Sequence[Operand],
    results: Sequence[Operand],
    default: Operand,
    type_: Type,
    position: int,
) -> Operand:
    """CASE: the result of the first condition that is true; errors count only where reached."""
    given = [*results, default]
    unified = unify(given, type_)
    value, error = unified[-1].value, unified[-1].error
    for condition, result in zip(reversed(conditions), reversed(unified[:-1]), strict=True):
        value = pick(condition.value, result.value, value)
        if error is not None or result.error is not None:
            otherwise = _NO_CODE if error is None else error
            then = _NO_CODE if result.error is None else result.error
            error = pick(condition.value, then, otherwise)
        if condition.error is not None:
            error = first_error(condition.error, error)
            value = masked(value, condition.error, type_)
    known = _joint(type_, given, unified)
    return replace(known, value=value, error=error, position=position)


def coalesce(operands: Sequence[Operand], type_: Type, position: int) -> Operand:
    """The first value that is not NULL; an error is not a NULL to be passed over."""
    unified = unify(operands, type_)
    value = pl.coalesce([operand.value for operand in unified])
    error = unified[-1].error
    for operand in reversed(unified[:-1]):
        if error is not None:
            error = pick(operand.value.is_null(), error, _NO_CODE)
        error = first_error(operand.error, error)
    known = _joint(type_, operands, unified)
    return replace(known, value=masked(value, error, type_), error=error, position=position)
