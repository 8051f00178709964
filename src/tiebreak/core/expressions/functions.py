"""The registry of functions: names, parameters, what each compiles to. No other can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from tiebreak.core.expressions import arithmetic, comparison, geo, logic, texts, times
from tiebreak.core.expressions.operands import (
    Operand,
    boolean,
    first_error,
    integer,
    masked,
    settled,
)
from tiebreak.core.expressions.scope import Type
from tiebreak.core.expressions.times import LocalCalendar

NUMERIC = frozenset({Type.INTEGER, Type.NUMBER})
TEXT = frozenset({Type.TEXT})
TAGS = frozenset({Type.TAGS})
INTEGER = frozenset({Type.INTEGER})
TIMESTAMP = frozenset({Type.TIMESTAMP})
DAY = frozenset({Type.DATE, Type.TIMESTAMP})
DATE = frozenset({Type.DATE})
SCALAR = frozenset(Type) - {Type.TAGS}
ORDERED = frozenset({Type.INTEGER, Type.NUMBER, Type.TEXT, Type.DATE, Type.TIMESTAMP})


@dataclass(frozen=True, slots=True)
class Parameter:
    """What an argument must be; `is_constant` asks for a constant written in the expression.

    `bounds` are the least and the greatest constant, or length of a constant text.
    """

    name: str
    types: frozenset[Type]
    is_constant: bool = False
    bounds: tuple[int, int] | None = None


# May raise `SyntaxMistake` where a constant text has a syntax of its own.
Build = Callable[[Sequence[Operand], LocalCalendar, int], Operand]


@dataclass(frozen=True, slots=True)
class Function:
    """A function: its parameters, how many of the last are optional, and how it compiles.

    `repeats` lets the last parameter occur any number of times; `is_uniform` asks that all
    arguments of the parameters have one type in common.
    """

    name: str
    parameters: tuple[Parameter, ...]
    build: Build
    optional: int = 0
    repeats: bool = False
    is_uniform: bool = False
    needs_zone: bool = False
    needs_business_days: bool = False

    @property
    def signature(self) -> str:
        """How it is called, for hints and the documentation."""
        names = [parameter.name for parameter in self.parameters]
        needed = len(names) - self.optional
        shown = ", ".join(names[:needed])
        shown += "".join(f"[, {name}]" for name in names[needed:])
        return f"{self.name}({shown}{', …' if self.repeats else ''})"

    def accepts(self, count: int) -> bool:
        """Whether it can be called with so many arguments."""
        most = 1_000 if self.repeats else len(self.parameters)
        return len(self.parameters) - self.optional <= count <= most

    def parameter(self, index: int) -> Parameter:
        """The parameter that the argument at this index fills."""
        return self.parameters[min(index, len(self.parameters) - 1)]


def _one(build: Callable[[Operand, int], Operand]) -> Build:
    return lambda arguments, _, position: build(arguments[0], position)


def _round(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    digits = int(arguments[1].literal) if len(arguments) > 1 else 0
    return _rounded(arguments[0], position, lambda x: x.round(digits, mode="half_away_from_zero"))


def _rounded(operand: Operand, position: int, operation: Callable[[pl.Expr], pl.Expr]) -> Operand:
    if operand.type is Type.INTEGER:
        return replace(operand, position=position, literal=None, symbol="")
    operand = settled(operand)
    # Rounding moves a value by at most one, and never past the largest double.
    low, high = operand.low - 1.0, operand.high + 1.0
    return Operand(
        Type.NUMBER, operation(operand.value), position, operand.error, low=low, high=high
    )


def _extreme(horizontal: Callable[[list[pl.Expr]], pl.Expr]) -> Build:
    def build(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
        type_ = logic.common_type(arguments)
        assert type_ is not None
        known = logic.coalesce(arguments, type_, position)
        unified = logic.unify(arguments, type_)
        error = first_error(*(operand.error for operand in unified))
        value = horizontal([operand.value for operand in unified])
        return replace(known, value=masked(value, error, type_), error=error)

    return build


def _coalesce(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    type_ = logic.common_type(arguments)
    assert type_ is not None
    return logic.coalesce(arguments, type_, position)


def _nullif(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    first, second = arguments
    type_ = logic.common_type(arguments)
    assert type_ is not None
    same = comparison.compare("=", first, second, type_, position)
    null = Operand(None, pl.lit(None), position)
    found = logic.choose([same], [null], first, first.type or type_, position)
    return replace(found, is_nonzero=second.literal == 0 and first.type in NUMERIC)


def _search(name: str) -> Build:
    def build(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
        where, what = arguments
        value = {
            "starts_with": where.value.str.starts_with(what.value),
            "ends_with": where.value.str.ends_with(what.value),
            "contains": where.value.str.contains(what.value, literal=True),
        }[name]
        return boolean(value, position, first_error(where.error, what.error))

    return build


def _replace(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    return texts.replace_all(arguments[0], arguments[1].literal, arguments[2].literal, position)


def _substr(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    count = arguments[2] if len(arguments) > 2 else None
    return texts.substr(arguments[0], arguments[1], count, position)


def _has(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    tags, *wanted = arguments
    found = [tags.value.list.contains(each.value, nulls_equal=False) for each in wanted]
    value = found[0] if len(found) == 1 else pl.any_horizontal(found)
    return boolean(value, position, first_error(*(each.error for each in arguments)))


def _cardinality(arguments: Sequence[Operand], _: LocalCalendar, position: int) -> Operand:
    value = arguments[0].value.list.len().cast(pl.Int64)
    return integer(value, position, arguments[0].error, 0, 2**31)


def _part(name: str) -> Function:
    types_ = TIMESTAMP if name in ("hour", "minute") else DAY
    return Function(
        name,
        (Parameter("ts" if types_ is TIMESTAMP else "day", types_),),
        lambda arguments, calendar, position: calendar.part(name, arguments[0], position),
        needs_zone=True,
    )


def _between(unit: str, types_: frozenset[Type], name: str) -> Function:
    return Function(
        f"{unit}_between",
        (Parameter(f"{name}1", types_), Parameter(f"{name}2", types_)),
        lambda arguments, _, position: times.between(unit, arguments[0], arguments[1], position),
        is_uniform=True,
    )


def _add(unit: str, types_: frozenset[Type], name: str) -> Function:
    return Function(
        f"add_{unit}",
        (Parameter(name, types_), Parameter("n", INTEGER)),
        lambda arguments, _, position: times.add(unit, arguments[0], arguments[1], position),
    )


_X, _T, _D = Parameter("x", NUMERIC), Parameter("text", TEXT), Parameter("day", DAY)
_S = Parameter("tags", TAGS)
_DIGITS = Parameter("digits", INTEGER, is_constant=True, bounds=(0, 15))
_CONSTANT = Parameter("'x'", TEXT, is_constant=True)


def _place(end: str = "") -> tuple[Parameter, Parameter]:
    return (
        Parameter(f"lat{end}", NUMERIC, bounds=geo.LATITUDES),
        Parameter(f"lon{end}", NUMERIC, bounds=geo.LONGITUDES),
    )


_LEVEL = Parameter("level", INTEGER, is_constant=True, bounds=geo.LEVELS)

_ALL = (
    Function("lower", (_T,), _one(texts.lower)),
    Function("upper", (_T,), _one(texts.upper)),
    Function("trim", (_T,), _one(texts.trim)),
    Function("length", (_T,), _one(texts.length)),
    Function("substr", (_T, Parameter("start", INTEGER), Parameter("count", INTEGER)), _substr, 1),
    Function(
        "replace",
        (
            _T,
            Parameter("'old'", TEXT, is_constant=True, bounds=(1, 4_000)),
            Parameter("'new'", TEXT, is_constant=True),
        ),
        _replace,
    ),
    Function("starts_with", (_T, Parameter("start", TEXT)), _search("starts_with")),
    Function("ends_with", (_T, Parameter("end", TEXT)), _search("ends_with")),
    Function("contains", (_T, Parameter("part", TEXT)), _search("contains")),
    Function("has", (_S, _CONSTANT), _has),
    Function("has_any", (_S, _CONSTANT), _has, repeats=True),
    Function("cardinality", (_S,), _cardinality),
    Function("abs", (_X,), _one(arithmetic.absolute)),
    Function(
        "round",
        (_X, Parameter("digits", INTEGER, is_constant=True, bounds=(0, 15))),
        _round,
        optional=1,
    ),
    Function("floor", (_X,), lambda a, _, at: _rounded(a[0], at, lambda x: x.floor())),
    Function("ceil", (_X,), lambda a, _, at: _rounded(a[0], at, lambda x: x.ceil())),
    Function(
        "least",
        (Parameter("a", ORDERED),),
        _extreme(lambda values: pl.min_horizontal(values)),
        repeats=True,
        is_uniform=True,
    ),
    Function(
        "greatest",
        (Parameter("a", ORDERED),),
        _extreme(lambda values: pl.max_horizontal(values)),
        repeats=True,
        is_uniform=True,
    ),
    Function("coalesce", (Parameter("a", SCALAR),), _coalesce, repeats=True, is_uniform=True),
    Function("nullif", (Parameter("a", SCALAR), Parameter("b", SCALAR)), _nullif, is_uniform=True),
    *(_part(n) for n in ("year", "month", "day", "hour", "minute", "day_of_week", "day_of_year")),
    Function("date", (_D,), lambda a, c, at: c.day(a[0], at), needs_zone=True),
    _between("hours", TIMESTAMP, "ts"),
    _between("days", DAY, "day"),
    _add("days", DAY, "day"),
    _add("hours", TIMESTAMP, "ts"),
    Function("is_holiday", (_D,), lambda a, c, at: c.is_holiday(a[0], at), needs_zone=True),
    Function(
        "is_business_day",
        (_D,),
        lambda a, c, at: c.is_business_day(a[0], at),
        needs_zone=True,
        needs_business_days=True,
    ),
    Function(
        "business_days_between",
        (Parameter("day1", DAY), Parameter("day2", DAY)),
        lambda a, c, at: c.business_days_between(a[0], a[1], at),
        needs_zone=True,
        needs_business_days=True,
    ),
    Function(
        "add_business_days",
        (_D, Parameter("n", INTEGER)),
        lambda a, c, at: c.add_business_days(a[0], a[1], at),
        needs_zone=True,
        needs_business_days=True,
    ),
    Function("geo_distance", (*_place("1"), *_place("2")), lambda a, _, at: geo.distance(a, at)),
    Function(
        "geo_within_radius",
        (*_place(), *_place("0"), Parameter("metres", NUMERIC, bounds=geo.RADII)),
        lambda a, _, at: geo.within_radius(a, at),
    ),
    Function(
        "geo_within",
        (*_place(), Parameter("'WKT'", TEXT, is_constant=True)),
        lambda a, _, at: geo.within(a, at),
    ),
    Function("geo_cell", (*_place(), _LEVEL), lambda a, _, at: geo.cell(a, at)),
)
FUNCTIONS: Mapping[str, Function] = {function.name: function for function in _ALL}
