"""Comparison, membership and LIKE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tiebreak.core.expressions.logic import junction, unify
from tiebreak.core.expressions.operands import (
    Operand,
    boolean,
    first_error,
    masked,
)
from tiebreak.core.expressions.scope import Type

MAX_PATTERN = 200
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compare(operator: str, left: Operand, right: Operand, type_: Type, position: int) -> Operand:
    """`left operator right` after both became `type_`; NULL when either is NULL."""
    left, right = unify((left, right), type_)
    if not left.value.meta.root_names():
        # Where Polars knows a column to be constant, a comparison is as long as its left side.
        left, right = right, left
        operator = _TURNED.get(operator, operator)
    a, b = left.value, right.value
    error = first_error(left.error, right.error)
    match operator:
        case "=":
            value = a == b
        case "<>":
            value = a != b
        case "<":
            value = a < b
        case "<=":
            value = a <= b
        case ">":
            value = a > b
        case ">=":
            value = a >= b
        case "is distinct":
            value = masked(a.ne_missing(b), error, Type.BOOLEAN)
        case _:
            value = masked(a.eq_missing(b), error, Type.BOOLEAN)
    return boolean(value, position, error)


def negated(operand: Operand) -> Operand:
    """NOT: NULL stays NULL."""
    return replace(operand, value=~operand.value, literal=None, symbol="")


def member(operand: Operand, members: Sequence[Operand], type_: Type, position: int) -> Operand:
    """`x IN (…)`: the OR of its equalities; NULL when none holds and NULL is among them."""
    literals = [each for each in members if each.literal is not None]
    if len(literals) == len(members) > 1 and type_ is not Type.BOOLEAN:
        subject = unify((operand,), type_)[0]
        values = pl.Series([each.literal for each in unify(members, type_)], dtype=type_.dtype)
        return boolean(subject.value.is_in(values.implode()), position, subject.error)
    equalities = [compare("=", operand, each, type_, position) for each in members]
    return equalities[0] if len(equalities) == 1 else junction("or", equalities, position)


def like(
    operand: Operand, pattern: str, escape: str | None, is_folding: bool, position: int
) -> Operand:
    """`x LIKE 'pattern'`, the whole text; `%` any characters, `_` one character."""
    value = operand.value
    if is_folding:
        value = value.str.to_lowercase()
        pattern = str(pl.select(pl.lit(pattern).str.to_lowercase()).item())
    parts = _like_parts(pattern, escape)
    return boolean(_like_value(value, parts), position, operand.error)


def _like_parts(pattern: str, escape: str | None) -> list[str | None]:
    """The pattern as texts, with None for `%` and "" for `_`."""
    parts: list[str | None] = []
    literal = ""
    is_escaped = False
    for char in pattern:
        if escape and char == escape and not is_escaped:
            is_escaped = True
            continue
        if not is_escaped and char in "%_":
            parts += [literal] if literal else []
            literal = ""
            if char == "_" or not parts or parts[-1] is not None:
                parts.append("" if char == "_" else None)
        else:
            literal += char
        is_escaped = False
    if is_escaped:
        raise ValueError("the pattern ends in its escape character")
    return parts + ([literal] if literal else [])


def _like_value(value: pl.Expr, parts: list[str | None]) -> pl.Expr:
    """Without `_` and inner `%` plain searches do; else a linear-time regular expression."""
    match parts:
        case []:
            return value == ""
        case [str(text)] if text:
            return value == text
        case [None]:
            return value == value
        case [str(text), None] if text:
            return value.str.starts_with(text)
        case [None, str(text)] if text:
            return value.str.ends_with(text)
        case [None, str(text), None] if text:
            return value.str.contains(text, literal=True)
        case _:
            regex = "".join(
                ".*" if part is None else pl.escape_regex(part) if part else "." for part in parts
            )
            return value.str.contains(f"(?s)^{regex}$")
