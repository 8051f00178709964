"""Each deviation from DuckDB that docs/expressions.md lists: what we give, and what it gives."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from tiebreak.core.expressions import Scope, Symbol, Type, compile_expression
from tiebreak.core.workflow import Calendar

SCOPE = Scope(
    {"i": Symbol(Type.INTEGER), "ts": Symbol(Type.TIMESTAMP)},
    Calendar(timezone="America/New_York"),
)
FRAME = pl.DataFrame(
    {"i": [0, 1], "ts": [datetime(2150, 7, 1, 12, tzinfo=UTC)] * 2},
    schema={"i": pl.Int64, "ts": pl.Datetime("us", "UTC")},
)
FAILS = "fails"  # DuckDB refuses the whole query
SMALLEST = "-9223372036854775808"
CASES: list[tuple[str, str, Any, str, Any]] = [
    ("division", "1 / 0", "division_by_zero", "1 / 0", math.inf),
    ("infinity", "1e308 * 10", "overflow", "1e308 * 10", math.inf),
    ("decimals", "0.1 + 0.2 = 0.3", False, "0.1 + 0.2 = 0.3", True),
    ("short-circuit", "1 // 0 = 1 AND FALSE", False, "1 // 0 = 1 AND i > 5", FAILS),
    ("error-scope", "1 // i", "division_by_zero", "1 // i", FAILS),
    ("upper-ss", "upper('ß')", "SS", "upper('ß')", "ẞ"),
    ("lower-dotted-i", "lower('İ')", "i̇", "lower('İ')", "i"),
    ("lower-sigma", "lower('ΑΣ')", "ας", "lower('ΑΣ')", "ασ"),
    ("trim-tab", "trim('\t a')", "a", "trim('\t a')", "\t a"),
    ("substr-zero", "substr('hello', -2, 2)", "", "substr('hello', -2, 2)", "lo"),
    ("substr-negative", "substr('hello', 2, -1)", "out_of_range", "substr('hello', 2, -1)", "h"),
    ("cast-fraction", "cast('3.7' as integer)", "invalid_cast", "cast('3.7' as bigint)", 4),
    ("cast-blank", "cast(' 3 ' as integer)", "invalid_cast", "cast(' 3 ' as bigint)", 3),
    ("cast-boolean", "cast('yes' as boolean)", "invalid_cast", "cast('yes' as boolean)", True),
    ("cast-infinity", "cast('inf' as number)", "invalid_cast", "'inf'::double", math.inf),
    ("text-small", "cast(1e-7 as text)", "1e-7", "cast(1e-7::double as text)", "1e-07"),
    (
        "remainder-minimum",
        f"{SMALLEST} % (-1)",
        0,
        f"({SMALLEST})::bigint % (-1)::bigint",
        FAILS,
    ),
]


def test_every_listed_deviation_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w-]+)` \|", page.split("| deviation |")[1], re.MULTILINE)
    assert listed == [*(case[0] for case in CASES), "time-zone-future"]


@pytest.mark.parametrize(("ours", "wanted"), [(case[1], case[2]) for case in CASES])
def test_ours(ours: str, wanted: Any) -> None:
    compiled = compile_expression(ours, SCOPE)
    value = FRAME.select(compiled.value.alias("v")).to_series()[0]
    error = compiled.error
    reason = None if error is None else FRAME.select(error.alias("e")).to_series()[0]
    assert (reason if value is None else value) == wanted


@pytest.mark.parametrize(("theirs", "wanted"), [(case[3], case[4]) for case in CASES])
def test_theirs(theirs: str, wanted: Any) -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE t AS SELECT 0::BIGINT AS i UNION ALL SELECT 1")
    query = f"SELECT {theirs} FROM t ORDER BY i"
    if wanted == FAILS:
        with pytest.raises(duckdb.Error):
            connection.execute(query).fetchall()
    else:
        assert connection.execute(query).fetchone() == (wanted,)


def test_time_zone_future() -> None:
    compiled = compile_expression("hour(ts)", SCOPE)
    assert FRAME.select(compiled.value.alias("v")).to_series().to_list() == [7, 7]
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'America/New_York'")
    assert connection.execute("SELECT hour(TIMESTAMPTZ '2150-07-01 12:00Z')").fetchone() == (8,)
