"""A column in scope as an operand: its type and what is known of its values."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import polars as pl

from tiebreak.core.expressions.operands import EPOCH, FLOAT_MAX, INT_MAX, INT_MIN, Operand
from tiebreak.core.expressions.scope import Symbol, Type
from tiebreak.core.times import FIRST_YEAR, LAST_YEAR

# Fields are checked in their own time zone, so a day of slack on either side.
_FIRST = date(FIRST_YEAR, 1, 1).toordinal() - EPOCH - 1.0
_LAST = date(LAST_YEAR, 12, 31).toordinal() - EPOCH + 2.0


def column(name: str, symbol: Symbol, position: int) -> Operand:
    """The operand of a bare column."""
    texts_ = frozenset(symbol.values) if symbol.values else None
    operand = Operand(symbol.type, pl.col(name), position, texts=texts_, symbol=name)
    match symbol.type:
        case Type.INTEGER:
            low = INT_MIN if symbol.minimum is None else max(INT_MIN, math.ceil(symbol.minimum))
            high = INT_MAX if symbol.maximum is None else min(INT_MAX, math.floor(symbol.maximum))
            return replace(operand, low=low, high=high)
        case Type.NUMBER:
            low = -FLOAT_MAX if symbol.minimum is None else symbol.minimum
            high = FLOAT_MAX if symbol.maximum is None else symbol.maximum
            return replace(operand, low=low, high=high)
        case Type.DATE | Type.TIMESTAMP:
            return replace(operand, low=_FIRST, high=_LAST)
        case _:
            return operand
