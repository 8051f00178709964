"""Mistakes: all at once, each at its character, with a hint; and limits that hostile texts meet."""

from __future__ import annotations

import polars as pl
import pytest

from tiebreak.core.expressions import (
    ExpressionError,
    Mistake,
    Scope,
    Symbol,
    Type,
    compile_expression,
)
from tiebreak.core.workflow import Calendar
from tiebreak.errors import InvalidInput

SYMBOLS = {
    "opened_at": Symbol(Type.TIMESTAMP),
    "day": Symbol(Type.DATE),
    "priority": Symbol(Type.TEXT, values=("normal", "rush", "emergency")),
    "remarks": Symbol(Type.TEXT),
    "depth": Symbol(Type.NUMBER),
    "renewals": Symbol(Type.INTEGER),
    "boring": Symbol(Type.BOOLEAN),
    "tags": Symbol(Type.TAGS, values=("gas", "water")),
    "damaged": Symbol(Type.BOOLEAN, after=True),
}
SCOPE = Scope(SYMBOLS, Calendar(timezone="America/New_York"))


def mistakes(sql: str, scope: Scope = SCOPE, **options: frozenset[Type]) -> tuple[Mistake, ...]:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(sql, scope, **options)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("sql", "position", "message", "hint"),
    [
        ("opend_at IS NULL", 0, "unknown field `opend_at`", "did you mean `opened_at`?"),
        ("priority = 'emergancy'", 11, "`priority` never is 'emergancy'", "`emergency`"),
        ("priority IN ('rush', 'slow')", 21, "`priority` never is 'slow'", ""),
        ("CASE priority WHEN 'rash' THEN 1 END", 19, "never is 'rash'", "`rush`"),
        ("has(tags, 'gaz')", 10, "`tags` never is 'gaz'", "`gas`"),
        ("damaged", 0, "`damaged` is known only after the fact", "when the ticket is submitted"),
        ("depth > 'deep'", 6, "cannot mix NUMBER and TEXT", "cast"),
        ("remarks AND boring", 0, "AND needs a condition, not TEXT", "= 'x'"),
        ("depth + remarks", 6, "`+` needs numbers, not NUMBER and TEXT", "||"),
        ("opened_at - opened_at", 10, "`-` needs numbers", "hours_between"),
        ("day > opened_at", 4, "cannot mix DATE and TIMESTAMP", "date("),
        ("depth % 2", 6, "`%` needs integers", "cast"),
        ("tags = 'gas'", 5, "tags cannot be compared", "has(tags"),
        ("boring > FALSE", 7, "conditions have no order", "="),
        ("lower(depth)", 6, "`lower` needs TEXT, not NUMBER", "lower(text)"),
        ("lenght(remarks)", 0, "unknown function `lenght`", "`length`"),
        ("substr(remarks)", 0, "`substr` cannot take 1 arguments", "substr(text, start[, count])"),
        ("round(depth, renewals)", 13, "`round` needs a constant for digits", "round(x[, digits])"),
        ("round(depth, 99)", 13, "digits must be 0 to 15", ""),
        ("replace(remarks, '', 'x')", 17, "'old' must be 1 to 4,000 characters long", ""),
        ("cast(depth as intger)", 14, "unknown type `intger`", "`integer`"),
        ("cast(day as integer)", 0, "DATE cannot be cast to INTEGER", ""),
        ("remarks LIKE priority", 13, "LIKE needs a pattern that is written out", "contains"),
        ("CASE WHEN boring THEN 1 ELSE 'x' END", 0, "CASE cannot mix INTEGER and TEXT", "cast"),
        ("NULL", 0, "the expression is always NULL", "cast"),
        ("day > '2024-02-30'", 6, "'2024-02-30' is no date", "2024-12-31"),
        ("opened_at > '2024-03-10 02:30'", 12, "is no timestamp", "local time"),
        ("depth = 1 = 2", 10, "unexpected `=`", "do not chain"),
        ("depth >", 7, "ends where a value is needed", ""),
        ("(depth > 1", 10, "ends where `)` is needed", ""),
        ("depth > 1)", 9, "unexpected `)`", ""),
        ("", 0, "the expression is empty", ""),
        ("remarks = 'it", 10, "the text is not closed", "''"),
        ("depth > 1; 2", 9, "unexpected character ';'", "one expression"),
        ("depth > 12abc", 8, "`12a` is no number", "digits"),
        ("renewals > 9223372036854775808", 11, "does not fit in 64 bits", "point"),
        ("depth > 1e999", 8, "1e999 is too large", ""),
        ("(SELECT 1)", 8, "unexpected `1`", "scalar"),
        ("depth IN (SELECT depth FROM t)", 17, "unexpected `depth`", "scalar"),
        ("read_text('/etc/passwd')", 0, "unknown function `read_text`", ""),
        ("count(*) OVER ()", 6, "unexpected `*`", ""),
        ("t.depth > 1", 1, "unexpected character '.'", "stand alone"),
        ("remarks ~ 'a'", 8, "unexpected character '~'", "LIKE"),
        ("'a\x00b' = remarks", 0, "the text holds a NUL", ""),
        ("'\ud800' = remarks", 0, "half a surrogate", ""),
    ],
)
def test_a_mistake_is_told_with_place_and_hint(
    sql: str, position: int, message: str, hint: str
) -> None:
    (mistake,) = mistakes(sql)
    assert mistake.position == position
    assert message in mistake.message
    assert hint in mistake.hint


def test_all_mistakes_are_told_at_once_in_their_order() -> None:
    found = mistakes("lenght(remark) > 3 AND priority = 'rash' OR depth + boring > 'x' AND wat")
    assert [each.position for each in found] == [0, 7, 34, 50, 69]


def test_the_error_is_an_invalid_input_with_problems() -> None:
    with pytest.raises(InvalidInput) as caught:
        compile_expression("wat > 1", SCOPE)
    (problem,) = caught.value.problems
    assert (problem.where, problem.code) == ("character 1", "invalid_expression")


def test_another_type_than_expected_is_a_mistake() -> None:
    (mistake,) = mistakes("depth + 1", expect=frozenset({Type.BOOLEAN}))
    assert mistake.message == "the result is NUMBER, not BOOLEAN"


def test_positions_count_characters_not_bytes() -> None:
    (mistake,) = mistakes("remarks = 'äöü€😀' AND wat")
    assert mistake.position == 22


def test_an_unknown_zone_or_a_calendar_without_business_days_is_a_mistake() -> None:
    nowhere = Scope(SYMBOLS, Calendar(timezone="Nowhere/Land"))
    assert "`Nowhere/Land`" in mistakes("hour(opened_at) > 3", nowhere)[0].message
    idle = Scope(SYMBOLS, Calendar(weekend=(1, 2, 3, 4, 5, 6, 7)))
    assert mistakes("is_business_day(day)", idle)[0].message == "the calendar has no business days"


def test_names_are_those_read() -> None:
    compiled = compile_expression("DEPTH > 1 AND \"remarks\" LIKE 'x%' -- boring", SCOPE)
    assert compiled.names == {"depth", "remarks"}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("depth > 1" + " " * 4_000, "4,009 characters"),
        ("+" * 900 + "1", "nests more than 32 levels"),
        (", ".join(["1"] * 600), "more than 1,000 words"),
        ("(" * 1_000 + "1" + ")" * 1_000, "more than 1,000 words"),
        ("(" * 400 + "1" + ")" * 400, "nests more than 32 levels"),
        ("NOT " * 400 + "boring", "nests more than 32 levels"),
        ("-" * 1 + " - " * 300 + "depth", "nests more than 32 levels"),
        ("CASE WHEN boring THEN " * 90 + "1" + " END" * 90, "nests more than 32 levels"),
        ("depth" + " + depth" * 300, "nests more than 100 levels"),
        ("depth" + "::text::number" * 60, "nests more than 100 levels"),
        ("1 / (" * 25 + "depth" + ")" * 25, "too complex"),
        ("remarks LIKE '" + "%a" * 150 + "'", "more than 200 characters"),
    ],
)
def test_hostile_sizes_are_refused_at_once(sql: str, message: str) -> None:
    assert message in " ".join(each.message for each in mistakes(sql))


def test_the_largest_allowed_expressions_work() -> None:
    frame = pl.DataFrame({"depth": [1.0], "renewals": [3], "remarks": ["x" * 50_000 + "y"]})
    for sql in (
        " OR ".join(["depth > 2"] * 240),
        "renewals" + " + 1" * 20,
        "CASE " + "WHEN depth > 2 THEN 1 " * 120 + "ELSE 0 END",
        "(" * 30 + "depth" + ")" * 30,
        "remarks LIKE '" + "%_x" * 60 + "y'",
    ):
        compiled = compile_expression(sql, SCOPE)
        assert frame.select(compiled.value.alias("v")).height == 1


def test_texts_cannot_grow_without_bound() -> None:
    sql = "remarks"
    for _ in range(3):
        sql = f"replace({sql}, 'x', '{'x' * 200}')"
    compiled = compile_expression(sql, SCOPE)
    frame = pl.DataFrame({"remarks": ["x" * 10]})
    assert frame.select(compiled.value.alias("v")).item() is None
    assert compiled.error is not None
    assert frame.select(compiled.error.alias("e")).item() == "text_too_long"
    joined = compile_expression("remarks || remarks", SCOPE)
    long = pl.DataFrame({"remarks": ["ä" * 30_000]})
    assert joined.error is not None
    assert long.select(joined.error.alias("e")).item() == "text_too_long"
    assert long.select(joined.value.alias("v")).item() is None
