"""What an expression may read: names, their types and bounds, and the calendar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from tiebreak.core.workflow import Calendar


class Type(StrEnum):
    """The types of the expression language, each with one column type."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    NUMBER = "number"
    TEXT = "text"
    TIMESTAMP = "timestamp"
    DATE = "date"
    TAGS = "tags"

    @property
    def dtype(self) -> pl.DataType:
        """The column type that holds values of this type."""
        return _DTYPES[self]


_DTYPES: Mapping[Type, pl.DataType] = {
    Type.BOOLEAN: pl.Boolean(),
    Type.INTEGER: pl.Int64(),
    Type.NUMBER: pl.Float64(),
    Type.TEXT: pl.String(),
    Type.TIMESTAMP: pl.Datetime("us", "UTC"),
    Type.DATE: pl.Date(),
    Type.TAGS: pl.List(pl.String()),
}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name that an expression may read.

    `values` are all texts the column can hold (empty: any). `minimum` and `maximum` bound an
    INTEGER or NUMBER column and are trusted: a check that they prove needless is left out.
    `after` marks what is known only after the fact: reading it is a mistake.
    """

    type: Type
    values: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    after: bool = False


@dataclass(frozen=True)
class Scope:
    """The names that expressions may read, and the calendar of local times and business days."""

    symbols: Mapping[str, Symbol]
    calendar: Calendar

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The columns that hold the names."""
        return {name: symbol.type.dtype for name, symbol in self.symbols.items()}
