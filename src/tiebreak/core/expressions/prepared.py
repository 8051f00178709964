"""Expressions prepared for many batches: nothing is planned anew, and what they share is shared.

Polars plans a query for each batch, which for the few tickets of one takes far longer than to
compute it. `Prepared` takes expressions apart once: operators are then called on the columns
themselves, and only functions (of texts, times, tags and places) go through a query, together.

Columns are Polars' bare ones (`core.bare`), because methods of `pl.Series` take several times as
long as what they do to a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, cast

import orjson
import polars as pl

from tiebreak.core.bare import Column, bare, bare_columns, named

Call = Callable[..., Column]
Operation = tuple[Call, Sequence[int]]  # a call, and the places of its operands


MAX_DEPTH = 40  # what nests deeper goes through the query

_TRUE, _FALSE = (bare(pl.Series([value], dtype=pl.Boolean)) for value in (True, False))
_ZERO = bare(pl.Series([0.0]))
_BARE = cast("Any", type(_TRUE))
_INTEGER, _WIDE, _NUMBER, _BOOLEAN = pl.Int64(), pl.Int128(), pl.Float64(), pl.Boolean()
_EQUALITY: Mapping[str, Call] = {"Eq": _BARE.eq, "NotEq": _BARE.neq}
_ORDER: Mapping[str, Call] = {
    "Lt": _BARE.lt,
    "LtEq": _BARE.lt_eq,
    "Gt": _BARE.gt,
    "GtEq": _BARE.gt_eq,
}
_ARITHMETIC: Mapping[str, Call] = {
    "Plus": _BARE.add,
    "Minus": _BARE.sub,
    "Multiply": _BARE.mul,
}
_LOGIC: Mapping[str, Call] = {"And": _BARE.bitand, "Or": _BARE.bitor}
# By type of both operands what an operator, by Polars' name for it, is called as.
_OPERATORS: Mapping[pl.DataType, Mapping[str, Call]] = {
    _BOOLEAN: {**_EQUALITY, **_LOGIC},
    _INTEGER: {**_EQUALITY, **_ORDER, **_ARITHMETIC},
    _WIDE: {**_EQUALITY, **_ORDER, **_ARITHMETIC},
    _NUMBER: {**_EQUALITY, **_ORDER, **_ARITHMETIC, "TrueDivide": _BARE.div},
    pl.String(): {**_EQUALITY, **_ORDER},
    pl.Date(): {**_EQUALITY, **_ORDER},
    pl.Datetime("us", "UTC"): {**_EQUALITY, **_ORDER},
}


@dataclass(slots=True)
class _Level:
    """Queries, which read columns of the frame and of levels before, and the calls after them."""

    made: dict[str, int] = field(default_factory=dict[str, int])
    queries: dict[int, pl.Expr] = field(default_factory=dict[int, pl.Expr])
    calls: list[tuple[int, Call, Sequence[int]]] = field(
        default_factory=list[tuple[int, Call, Sequence[int]]]
    )


class Prepared:
    """Named expressions over frames with these columns; each may read those before it.

    They give the bits that a query with them would give.
    """

    def __init__(self, expressions: Sequence[pl.Expr], schema: Mapping[str, pl.DataType]) -> None:
        self._schema = dict(schema)
        self._depth = 0
        self._levels = [_Level()]
        self._level_of: list[int] = []  # by place
        self._constants: list[Column] = []  # by place
        self._known: dict[bytes, int] = {}  # the place of what was met before
        self._given: dict[str, int] = {}
        self._made: dict[str, int] = {}
        for expression in expressions:
            name, unnamed = expression.meta.output_name(), _unnamed(expression)
            place = self._place(unnamed)
            self._schema[name] = self._type(unnamed)
            self._made[name] = place

    def evaluate(self, frame: pl.DataFrame) -> list[pl.Series]:
        """The column of each expression, in their order. Any number of rows, also none."""
        if not frame.height:  # for none of which Polars' functions of a constant give one row
            return [made.head(0) for made in self.evaluate(frame.clear(1))]
        given = dict(zip(frame.columns, bare_columns(frame), strict=True))
        places = self._constants.copy()
        for name, place in self._given.items():
            places[place] = given[name]
        for level in self._levels:
            if level.queries:
                made = [named(places[at], name, frame.height) for name, at in level.made.items()]
                found = frame.hstack(made).select_seq(level.queries.values())
                for place, column in zip(level.queries, bare_columns(found), strict=True):
                    places[place] = column
            for place, call, operands in level.calls:
                places[place] = call(*[places[operand] for operand in operands])
        return [named(places[at], name, frame.height) for name, at in self._made.items()]

    def _type(self, expression: pl.Expr) -> pl.DataType:
        names = expression.meta.root_names()
        frame = pl.LazyFrame(schema={name: self._schema[name] for name in names})
        return frame.select(expression).collect_schema().dtypes()[0]

    def _new(self, level: int, constant: Column = None) -> int:
        self._level_of.append(level)
        self._constants.append(constant)
        if level == len(self._levels):
            self._levels.append(_Level())
        return len(self._level_of) - 1

    def _place(self, expression: pl.Expr) -> int:
        """Where the column of an expression will stand."""
        if expression.meta.is_column():
            return self._column(expression.meta.output_name())
        key = expression.meta.serialize()
        if key not in self._known:
            self._depth += 1
            operation = self._operation(expression) if self._depth <= MAX_DEPTH else None
            self._depth -= 1
            self._known[key] = (
                self._query(expression) if operation is None else self._call(*operation)
            )
        return self._known[key]

    def _column(self, name: str) -> int:
        if name in self._made:
            return self._made[name]
        if name not in self._given:
            self._given[name] = self._new(0)
        return self._given[name]

    def _query(self, expression: pl.Expr) -> int:
        names = expression.meta.root_names()
        made = {name: self._made[name] for name in names if name in self._made}
        level = max((self._level_of[place] + 1 for place in made.values()), default=0)
        place = self._new(level)
        self._levels[level].made |= made
        self._levels[level].queries[place] = expression.alias(str(place))
        return place

    def _call(self, call: Call, operands: Sequence[int]) -> int:
        level = max(self._level_of[operand] for operand in operands)
        place = self._new(level)
        self._levels[level].calls.append((place, call, operands))
        return place

    def _operation(self, expression: pl.Expr) -> Operation | None:
        """The operation that an expression is; None for what only a query computes."""
        kind, content = _node(expression)
        parts = expression.meta.pop()[::-1]
        match kind, content:
            case "BinaryExpr", {
                "op": "EqValidity",
                "right": {"Literal": {"Scalar": {"Boolean": value}}},
            }:
                return _holds if value else _fails, [self._place(parts[0])]
            case "BinaryExpr", {"op": name}:
                return self._binary(name, parts)
            case "Ternary", _:
                return self._choice(parts, self._type(expression))
            case "Cast", {"options": "Strict" | "NonStrict" as options}:
                return self._cast(parts[0], self._type(expression), strict=options == "Strict")
            case "Function", {"function": {"Boolean": "Not"}}:
                return _BARE.not_, [self._place(parts[0])]
            case "Function", {"function": {"Boolean": "IsFinite"}}:
                return _is_finite, [self._place(parts[0])]
            case "Function", {"function": {"Boolean": "IsNull" | "IsNotNull" as name}}:
                return self._same(_is_null if name == "IsNull" else _is_not_null, parts)
            case "Function", {"function": {"Boolean": "AnyHorizontal"}}:
                return self._same(_any, parts)
            case "Function", {"function": "Coalesce"}:
                return self._same(_first, parts)
            case "Function", {
                "function": "FillNull",
                "input": [_, {"Literal": {"Scalar": {"Boolean": False}}}],
            }:
                return _holds, [self._place(parts[0])]
            case _:
                return None

    def _binary(self, name: str, parts: Sequence[pl.Expr]) -> Operation | None:
        type_ = self._common_type(parts)
        call = None if type_ is None else _OPERATORS[type_].get(name)
        return None if type_ is None or call is None else self._operands(call, parts, type_)

    def _same(self, call: Call, parts: Sequence[pl.Expr]) -> Operation | None:
        """A call whose operands have one type."""
        type_ = self._common_type(parts)
        return None if type_ is None else self._operands(call, parts, type_)

    def _common_type(self, parts: Sequence[pl.Expr]) -> pl.DataType | None:
        """The type that all parts but constants have, where there are operators for it."""
        types = {self._type(each) for each in parts if not _is_constant(each)}
        return types.pop() if len(types) == 1 and types <= _OPERATORS.keys() else None

    def _choice(self, parts: Sequence[pl.Expr], type_: pl.DataType) -> Operation | None:
        *results, mask = parts
        types = {self._type(each) for each in results if not _is_constant(each)}
        if type_ not in _OPERATORS or not types <= {type_} or _is_constant(mask):
            return None
        return self._operands(_chosen, parts, type_)

    def _cast(self, part: pl.Expr, type_: pl.DataType, *, strict: bool) -> Operation | None:
        given = self._type(part)
        is_numeric = given.is_numeric() or given.is_temporal() or given == _BOOLEAN
        if _is_constant(part) or not is_numeric or type_ not in (_INTEGER, _WIDE, _NUMBER):
            return None
        return partial(_cast, type_, strict), [self._place(part)]

    def _operands(
        self, call: Call, parts: Sequence[pl.Expr], type_: pl.DataType
    ) -> Operation | None:
        """The call with its operands, constants as this type; None where one has no such value."""
        literals = [_constant(part, type_) for part in parts if _is_constant(part)]
        if any(each is None for each in literals):
            return None
        constants = iter(literals)
        return call, [
            self._new(0, next(constants)) if _is_constant(part) else self._place(part)
            for part in parts
        ]


def _node(expression: pl.Expr) -> tuple[str, Any]:
    """What the outermost part of an expression is, and its content where it has any."""
    node = orjson.loads(expression.meta.serialize(format="json"))
    return (node, None) if isinstance(node, str) else next(iter(node.items()))


def _unnamed(expression: pl.Expr) -> pl.Expr:
    """The expression that the outermost alias, if it has one, names."""
    return expression.meta.pop()[0] if _node(expression)[0] == "Alias" else expression


def _is_constant(expression: pl.Expr) -> bool:
    """Whether it is one value, whatever the frame, and not one for each row."""
    if expression.meta.root_names():
        return False
    return '"Len"' not in expression.meta.serialize(format="json")


def _constant(expression: pl.Expr, type_: pl.DataType) -> Column | None:
    given = pl.select(expression).to_series()
    constant = given.cast(type_, strict=False)
    is_same = given.dtype == type_ or constant.item() == given.item()
    return bare(constant) if is_same else None


def _cast(type_: pl.DataType, strict: bool, column: Column) -> Column:
    return column.cast(type_, strict, wrap_numerical=False)


def _chosen(then: Column, otherwise: Column, mask: Column) -> Column:
    return then.zip_with(mask, otherwise)


def _is_not_null(column: Column) -> Column:
    return _holds(column.eq(column))


def _is_null(column: Column) -> Column:
    return _is_not_null(column).not_()


def _any(*conditions: Column) -> Column:
    return reduce(_BARE.bitor, conditions)


def _first(*columns: Column) -> Column:
    """The first value that is not NULL."""
    return reduce(lambda first, then: first.zip_with(first.eq(first), then), columns)


def _is_finite(number: Column) -> Column:
    return number.sub(number).eq(_ZERO)  # which it is not for NaN and infinities


def _fails(condition: Column) -> Column:
    """Where a condition is false, and not NULL."""
    return _TRUE.zip_with(condition.not_(), _FALSE)


def _holds(condition: Column) -> Column:
    """Where a condition is true, and not NULL."""
    return _TRUE.zip_with(condition, _FALSE)
