"""Random tables, and random expressions told twice: in our language and in DuckDB's.

The second telling spells out every listed deviation (docs/expressions.md), so that value *and*
error must agree. `FAIL` is a cast that DuckDB cannot do; as it reads a column, it fails only for
the rows that reach it, and `TRY` turns the failure into NULL.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cache

import polars as pl
from hypothesis import strategies as st

from tiebreak.core.expressions import Scope, Symbol, Type
from tiebreak.core.workflow import Calendar

ZONE = "America/New_York"
HOLIDAYS = (dt.date(2023, 12, 25), dt.date(2024, 1, 1), dt.date(2024, 7, 4))
SYMBOLS = {
    "rid": Symbol(Type.INTEGER, minimum=0, maximum=1000),
    "a": Symbol(Type.INTEGER),
    "b": Symbol(Type.INTEGER),
    "s": Symbol(Type.INTEGER, minimum=-100, maximum=100),
    "x": Symbol(Type.NUMBER),
    "y": Symbol(Type.NUMBER),
    "z": Symbol(Type.NUMBER, minimum=-1000, maximum=1000),
    "t": Symbol(Type.TEXT),
    "u": Symbol(Type.TEXT),
    "p": Symbol(Type.BOOLEAN),
    "q": Symbol(Type.BOOLEAN),
    "ts": Symbol(Type.TIMESTAMP),
    "tu": Symbol(Type.TIMESTAMP),
    "d": Symbol(Type.DATE),
    "e": Symbol(Type.DATE),
    "tags": Symbol(Type.TAGS),
}
SCOPE = Scope(SYMBOLS, Calendar(timezone=ZONE, holidays=HOLIDAYS))
SCHEMA = {name: symbol.type.dtype for name, symbol in SYMBOLS.items()}
ALPHABET = "abAB é%_."  # no letter whose case mapping differs between the engines

_EDGES = [0, 1, -1, 2, 3, -7, 10, 2**31, -(2**31), 2**53 + 1, 2**62, 2**63 - 1, -(2**63)]
_FLOATS = [
    0.0,
    -0.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    0.285,
    1e-300,
    1e200,
    -1e200,
    -1e308,
    1.5e308,
    5e-324,
    2.0**63,
]
_dice = st.integers(0, 5)
_START, _END = dt.datetime(1971, 1, 1), dt.datetime(2036, 12, 31)
_integers = st.sampled_from(_EDGES) | st.integers(-1000, 1000) | st.integers(-(2**63), 2**63 - 1)
_numbers = st.sampled_from(_FLOATS) | st.floats(allow_nan=False, allow_infinity=False)
_texts = st.text(ALPHABET, max_size=6) | st.sampled_from(["12", "-3", "+4", "1.5", "true", "ab%"])
_moments = st.datetimes(_START, _END).map(lambda each: each.replace(tzinfo=dt.UTC))
_dates = st.dates(_START.date(), _END.date())
_VALUES = {
    "a": _integers,
    "b": _integers,
    "s": st.integers(-100, 100),
    "x": _numbers,
    "y": _numbers,
    "z": st.floats(-1000, 1000),
    "t": _texts,
    "u": _texts,
    "p": st.booleans(),
    "q": st.booleans(),
    "ts": _moments,
    "tu": _moments,
    "d": _dates,
    "e": _dates,
    "tags": st.lists(st.sampled_from(["gas", "water", "fibre"]), max_size=3),
}


@st.composite
def tables(draw: st.DrawFn, max_rows: int = 6) -> pl.DataFrame:
    """A table of a few rows full of NULLs, edges and ordinary values."""
    rows = draw(st.integers(1, max_rows))
    columns = {
        name: [None if draw(_dice) == 0 else draw(values) for _ in range(rows)]
        for name, values in _VALUES.items()
    }
    return pl.DataFrame({"rid": list(range(rows)), **columns}, schema=SCHEMA)


@dataclass(frozen=True)
class Pair:
    """One expression: ours, and DuckDB's."""

    ours: str
    duck: str


_INT_FAIL = "CAST('error' || rid AS BIGINT)"
_FAILS = {
    "i": _INT_FAIL,
    "n": "CAST('error' || rid AS DOUBLE)",
    "b": "CAST('error' || rid AS BOOLEAN)",
    "t": "CAST('error' || rid AS VARCHAR)",
    "d": "CAST('error' || rid AS DATE)",
    "m": "CAST('error' || rid AS TIMESTAMPTZ)",
}


def _unfolded(constant: str) -> str:
    """A constant that reads a column, so that DuckDB does not fail while it plans."""
    return f"(CASE WHEN rid IS NOT NULL THEN {constant} END)"


def _same(text: str) -> Pair:
    return Pair(text, text)


@cache
def _leaf(kind: str) -> st.SearchStrategy[Pair]:
    match kind:
        case "i":
            literal = st.integers(-50, 50) | st.sampled_from(_EDGES)
            return st.sampled_from([_same("a"), _same("b"), _same("s")]) | literal.map(
                lambda v: Pair(f"({v})", _unfolded(f"CAST('{v}' AS BIGINT)"))
            )
        case "n" | "r" | "f":
            literal = _numbers.filter(lambda v: v == v)
            return st.sampled_from([_same("x"), _same("y"), _same("z")]) | literal.map(
                lambda v: Pair(f"({float(v)!r})", _unfolded(f"CAST('{float(v)!r}' AS DOUBLE)"))
            )
        case "t":
            literal = st.text(ALPHABET, max_size=3)
            return st.sampled_from([_same("t"), _same("u")]) | literal.map(
                lambda v: Pair(f"'{v}'", _unfolded(f"'{v}'"))
            )
        case "b":
            null = Pair("cast(NULL as boolean)", _unfolded("CAST(NULL AS BOOLEAN)"))
            return st.sampled_from([_same("p"), _same("q"), _same("TRUE"), _same("FALSE"), null])
        case "d":
            return st.sampled_from([_same("d"), _same("e"), _same("DATE '2024-02-29'")])
        case _:
            moment = Pair(
                "TIMESTAMP '2024-02-29 12:00:00Z'", "TIMESTAMPTZ '2024-02-29 12:00:00+00'"
            )
            return st.sampled_from([_same("ts"), _same("tu"), moment])


def kleene(word: str, left: Pair, right: Pair) -> Pair:
    """AND and OR: an operand that decides alone silences an error of the other."""
    decides = "FALSE" if word == "AND" else "TRUE"
    return Pair(
        f"({left.ours} {word} {right.ours})",
        f"(CASE WHEN TRY({left.duck}) IS {decides} OR TRY({right.duck}) IS {decides} "
        f"THEN {decides} ELSE ({left.duck}) {word} ({right.duck}) END)",
    )


def _finite(pair_ours: str, duck: str) -> Pair:
    return Pair(pair_ours, f"(CASE WHEN NOT isfinite({duck}) THEN {_FAILS['n']} ELSE {duck} END)")


def _binary(operator: str, left: Pair, right: Pair) -> Pair:
    """DuckDB looks at both operands, also where one is NULL in all rows: a struct holds them."""
    operands = f"[{{'l': {left.duck}, 'r': {right.duck}}}]"
    return Pair(
        f"({left.ours} {operator} {right.ours})",
        f"(list_transform({operands}, lambda it: it.l {operator} it.r)[1])",
    )


def _divide(left: Pair, right: Pair) -> Pair:
    a, b = f"CAST({left.duck} AS DOUBLE)", f"CAST({right.duck} AS DOUBLE)"
    return Pair(
        f"({left.ours} / {right.ours})",
        f"(CASE WHEN {b} = 0 AND {a} IS NOT NULL THEN {_FAILS['n']} ELSE {a} / nullif({b}, 0) END)",
    )


def _call(name: str, *arguments: Pair, duck: str | None = None) -> Pair:
    ours = ", ".join(each.ours for each in arguments)
    theirs = ", ".join(each.duck for each in arguments)
    return Pair(f"{name}({ours})", f"{duck or name}({theirs})")


def _case(condition: Pair, result: Pair, default: Pair) -> Pair:
    return Pair(
        f"CASE WHEN {condition.ours} THEN {result.ours} ELSE {default.ours} END",
        f"(CASE WHEN {condition.duck} THEN {result.duck} ELSE {default.duck} END)",
    )


def _integer(e: Made) -> list[st.SearchStrategy[Pair]]:
    i, n, t, b, d, m = (e(kind) for kind in "intbdm")
    part = st.sampled_from(["year", "month", "day", "day_of_week", "day_of_year"])
    duck = {"day_of_week": "isodow", "day_of_year": "dayofyear"}
    return [
        st.builds(_binary, st.sampled_from(["+", "-", "*"]), i, i),
        st.builds(_binary, st.sampled_from(["//", "%"]), i, i),
        st.builds(lambda v: Pair(f"-({v.ours})", f"(CAST('0' AS BIGINT) - {v.duck})"), i),
        st.builds(lambda v: _call("abs", v), i),
        st.builds(lambda u, v: _call("coalesce", u, v), i, i),
        st.builds(lambda u, v: _call("nullif", u, v), i, i),
        st.builds(lambda f, u, v: _call(f, u, v), st.sampled_from(["greatest", "least"]), i, i),
        st.builds(_case, b, i, i),
        st.builds(lambda v: _call("length", v), t),
        st.builds(lambda f, v: _call(f, v, duck=duck.get(f, f)), part, d | m),
        st.builds(lambda f, v: _call(f, v), st.sampled_from(["hour", "minute"]), m),
        st.builds(lambda v: Pair(f"cast({v.ours} as integer)", f"CAST({v.duck} AS BIGINT)"), n | b),
        st.builds(
            lambda v: Pair(
                f"cast({v.ours} as integer)",
                f"(CASE WHEN NOT regexp_full_match({v.duck}, '[+-]?[0-9]+') THEN {_INT_FAIL} "
                f"ELSE CAST({v.duck} AS BIGINT) END)",
            ),
            t,
        ),
    ]


def _raw(e: Made) -> list[st.SearchStrategy[Pair]]:
    """Chains of arithmetic, which are checked for overflow at their end."""
    i, n, r, f = (e(kind) for kind in "inrf")
    operators = st.sampled_from(["+", "-", "*"])
    return [
        st.builds(_binary, operators, f | r, f | r),
        st.builds(_binary, operators, f | r, i),
        st.builds(_divide, n | i, n | i),
    ]


def _number(e: Made) -> list[st.SearchStrategy[Pair]]:
    chains = [st.builds(lambda v: _finite(v.ours, v.duck), chain) for chain in _raw(e)]
    return [e("f"), *chains]


def _function(e: Made) -> list[st.SearchStrategy[Pair]]:
    i, n, b, d, m = (e(kind) for kind in "inbdm")
    return [
        st.builds(lambda f, v: _call(f, v), st.sampled_from(["floor", "ceil", "abs"]), n),
        st.builds(lambda v: _call("round", v), n),
        st.builds(lambda f, u, v: _call(f, u, v), st.sampled_from(["greatest", "least"]), n, n),
        st.builds(lambda u, v: _call("coalesce", u, v), n, n),
        st.builds(lambda u, v: _call("nullif", u, v), n, n),
        st.builds(_case, b, n, n),
        st.builds(lambda v: Pair(f"cast({v.ours} as number)", f"CAST({v.duck} AS DOUBLE)"), i),
        st.builds(
            lambda u, v: Pair(
                f"hours_between({u.ours}, {v.ours})",
                f"(CAST(epoch_us({v.duck}) - epoch_us({u.duck}) AS DOUBLE) / 3.6e9::DOUBLE)",
            ),
            m,
            m,
        ),
        st.builds(
            lambda u, v: Pair(
                f"days_between({u.ours}, {v.ours})", f"CAST({v.duck} - {u.duck} AS DOUBLE)"
            ),
            d,
            d,
        ),
    ]


def _text(e: Made) -> list[st.SearchStrategy[Pair]]:
    i, t, b, d = (e(kind) for kind in "itbd")
    words = st.sampled_from(["a", "B", "é", "ab", "."])
    return [
        st.builds(lambda f, v: _call(f, v), st.sampled_from(["lower", "upper", "trim"]), t),
        st.builds(lambda u, v: _binary("||", u, v), t, t),
        st.builds(
            lambda v, at, n: _call("substr", v, _same(str(at)), _same(str(n))),
            t,
            st.integers(1, 5),
            st.integers(0, 4),
        ),
        st.builds(
            lambda v, old, new: _call("replace", v, _same(f"'{old}'"), _same(f"'{new}'")),
            t,
            words,
            words,
        ),
        st.builds(lambda u, v: _call("coalesce", u, v), t, t),
        st.builds(lambda u, v: _call("nullif", u, v), t, t),
        st.builds(_case, b, t, t),
        st.builds(
            lambda v: Pair(f"cast({v.ours} as text)", f"CAST({v.duck} AS VARCHAR)"), i | d | b
        ),
    ]


def _boolean(e: Made) -> list[st.SearchStrategy[Pair]]:
    i, n, t, b, d, m = (e(kind) for kind in "intbdm")
    compare = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
    patterns = st.text("aB%_.é", min_size=0, max_size=4)
    pair = st.one_of(*(st.tuples(one, one) for one in (i, n, t, d, m)), st.tuples(i, n))

    def between(u: Pair, low: Pair, high: Pair) -> Pair:
        both = kleene("AND", _binary(">=", u, low), _binary("<=", u, high))
        return Pair(f"({u.ours} BETWEEN {low.ours} AND {high.ours})", both.duck)

    return [
        st.builds(lambda o, both: _binary(o, *both), compare, pair),
        st.builds(lambda o, u, v: _binary(o, u, v), st.sampled_from(["=", "<>"]), b, b),
        st.builds(
            lambda o, both: _binary(o, *both),
            st.sampled_from(["IS DISTINCT FROM", "IS NOT DISTINCT FROM"]),
            pair,
        ),
        st.builds(kleene, st.sampled_from(["AND", "OR"]), b, b),
        st.builds(lambda v: Pair(f"(NOT {v.ours})", f"(NOT ({v.duck}))"), b),
        st.builds(
            lambda v, n: Pair(f"({v.ours} IS {n}NULL)", f"(({v.duck}) IS {n}NULL)"),
            st.one_of(i, n, t, b, d, m),
            st.sampled_from(["", "NOT "]),
        ),
        st.builds(
            lambda v, n: Pair(f"({v.ours} IS {n})", f"(({v.duck}) IS {n})"),
            b,
            st.sampled_from(["TRUE", "FALSE", "NOT TRUE", "NOT FALSE"]),
        ),
        st.builds(between, i, i, i),
        st.builds(
            lambda v, n, values: Pair(
                f"({v.ours} {n}IN ({', '.join(values)}))",
                f"(({v.duck}) {n}IN ({', '.join(values)}))",
            ),
            i,
            st.sampled_from(["", "NOT "]),
            st.lists(st.sampled_from(["1", "2", "-7", "NULL", "s"]), min_size=1, max_size=4),
        ),
        st.builds(
            lambda v, w, p: _same_like(v, w, p),
            t,
            st.sampled_from(["LIKE", "NOT LIKE", "ILIKE"]),
            patterns,
        ),
        st.builds(
            lambda f, u, v: _call(f, u, v),
            st.sampled_from(["starts_with", "ends_with", "contains"]),
            t,
            t,
        ),
        st.builds(_case, b, b, b),
        st.builds(lambda v: Pair(f"cast({v.ours} as boolean)", f"CAST({v.duck} AS BOOLEAN)"), i),
        st.builds(
            lambda f, words: Pair(
                f"{f}(tags, {words})",
                f"list_has_any(tags, [{words}])",
            ),
            st.just("has_any"),
            st.sampled_from(["'gas'", "'gas', 'water'", "'none'"]),
        ),
    ]


def _same_like(value: Pair, word: str, pattern: str) -> Pair:
    return Pair(f"({value.ours} {word} '{pattern}')", f"(({value.duck}) {word} '{pattern}')")


def _date(e: Made) -> list[st.SearchStrategy[Pair]]:
    b, d, m, i = e("b"), e("d"), e("m"), e("i")
    day = "DATE '1970-01-01'"
    return [
        st.builds(lambda v: Pair(f"date({v.ours})", f"CAST({v.duck} AS DATE)"), m),
        st.builds(lambda u, v: _call("coalesce", u, v), d, d),
        st.builds(_case, b, d, d),
        st.builds(
            lambda v, n: Pair(
                f"add_days({v.ours}, {n.ours})",
                f"(CASE WHEN {v.duck} IS NOT NULL AND abs(CAST({n.duck} AS DOUBLE)) > 1e6 "
                f"OR ({v.duck} - {day}) + CASE WHEN abs(CAST({n.duck} AS DOUBLE)) <= 1e6 "
                f"THEN {n.duck} END NOT BETWEEN DATE '0001-01-02' - {day} "
                f"AND DATE '9999-12-30' - {day} THEN {_FAILS['d']} "
                f"WHEN abs(CAST({n.duck} AS DOUBLE)) <= 1e6 "
                f"THEN {v.duck} + CAST({n.duck} AS INTEGER) END)",
            ),
            st.sampled_from([_same("d"), _same("e")]),
            i,
        ),
    ]


def _moment(e: Made) -> list[st.SearchStrategy[Pair]]:
    b, m = e("b"), e("m")
    return [
        st.builds(lambda u, v: _call("coalesce", u, v), m, m),
        st.builds(_case, b, m, m),
        st.builds(
            lambda v, n: Pair(f"add_days({v.ours}, {n})", f"({v.duck} + to_hours(24 * ({n})))"),
            m,
            st.integers(-100, 100),
        ),
    ]


_GROWN = {
    "i": _integer,
    "n": _number,
    "r": _raw,
    "f": _function,
    "t": _text,
    "b": _boolean,
    "d": _date,
    "m": _moment,
}
_TYPES = {
    "i": Type.INTEGER,
    "n": Type.NUMBER,
    "r": Type.NUMBER,
    "f": Type.NUMBER,
    "t": Type.TEXT,
    "b": Type.BOOLEAN,
    "d": Type.DATE,
    "m": Type.TIMESTAMP,
}


class Made:
    """The strategies of every kind, `depth` operators deep at most."""

    def __init__(self, depth: int) -> None:
        self._depth = depth

    def __call__(self, kind: str) -> st.SearchStrategy[Pair]:
        return _leaf(kind) if self._depth == 0 else _leaf_or_grown(kind, self._depth)


@cache
def _grown(kind: str, depth: int) -> tuple[st.SearchStrategy[Pair], ...]:
    return tuple(_GROWN[kind](Made(depth - 1)))


@st.composite
def _leaf_or_grown(draw: st.DrawFn, kind: str, depth: int) -> Pair:
    """A composite of its own, so that Hypothesis does not spell out the whole grammar."""
    if draw(st.integers(0, 3)) == 0:
        return draw(_leaf(kind))
    return draw(draw(st.sampled_from(_grown(kind, depth))))


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[Type, Pair]:
    """Random expressions of any type."""
    kind = draw(st.sampled_from("intbdm"))
    return _TYPES[kind], draw(draw(st.sampled_from(_grown(kind, depth))))
