"""Positions: published values, edges, NULL and errors, and every mistake in a WKT at its place."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from tiebreak.core.expressions import (
    Expression,
    ExpressionError,
    Mistake,
    Scope,
    Symbol,
    Type,
    compile_expression,
)
from tiebreak.core.expressions.wkt import MAX_POSITIONS
from tiebreak.core.workflow import Calendar

SCOPE = Scope(
    {
        "lat": Symbol(Type.NUMBER),
        "lon": Symbol(Type.NUMBER),
        "n": Symbol(Type.INTEGER),
        "address": Symbol(Type.TEXT),
        "safe_lat": Symbol(Type.NUMBER, minimum=-90, maximum=90),
        "safe_lon": Symbol(Type.NUMBER, minimum=-180, maximum=180),
    },
    Calendar(),
)
SQUARE = "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0))"
HOLED = "POLYGON ((0 0, 9 0, 9 9, 0 9, 0 0), (3 3, 3 6, 6 6, 6 3, 3 3))"
OVERLAPPING = "MULTIPOLYGON (((0 0, 4 0, 4 4, 0 4, 0 0)), ((2 2, 6 2, 6 6, 2 6, 2 2)))"
ISLAND = "MULTIPOLYGON(((0 0,9 0,9 9,0 9,0 0),(2 2,8 2,8 8,2 8,2 2)),((4 4,5 4,5 5,4 5,4 4)))"


def compiled(sql: str) -> Expression:
    return compile_expression(sql, SCOPE)


def outcome(sql: str, lat: float | None, lon: float | None) -> Any:
    """The value, or the reason in its place."""
    frame = pl.DataFrame(
        {"lat": [lat], "lon": [lon]}, schema={"lat": pl.Float64, "lon": pl.Float64}
    )
    expression = compiled(sql)
    error = None if expression.error is None else frame.select(expression.error.alias("e")).item()
    value = frame.select(expression.value.alias("v")).item()
    assert value is None or error is None
    return error or value


@pytest.mark.parametrize(
    ("lat", "lon", "cell"),
    [
        (57.64911, 10.40744, "u4pruydqqvj"),
        (42.6, -5.6, "ezs42"),
        (-25.382708, -49.265506, "6gkzwgjzn820"),
        (48.669, -4.329, "gbsuv"),
        (39.92324, 116.3906, "wx4g0ec1"),
        (0.0, 0.0, "s00000000000"),
        (-90.0, -180.0, "000000000000"),
        (90.0, 180.0, "zzzzzzzzzzzz"),
    ],
)
def test_cells_are_the_published_geohashes(lat: float, lon: float, cell: str) -> None:
    for level in range(1, len(cell) + 1):
        assert outcome(f"geo_cell(lat, lon, {level})", lat, lon) == cell[:level]


def test_known_distances() -> None:
    """From Paris to London, and from the equator to a pole."""
    assert outcome("geo_distance(lat, lon, 51.5074, -0.1278)", 48.8566, 2.3522) == pytest.approx(
        343_556.5, abs=0.5
    )
    assert outcome("geo_distance(lat, lon, 90, 0)", 0.0, 77.0) == pytest.approx(
        6_371_008.8 * 1.5707963267948966, rel=1e-15
    )


@pytest.mark.parametrize(
    ("area", "lon", "lat", "is_covered"),
    [
        (SQUARE, 2, 2, True),
        (SQUARE, 5, 2, False),
        (SQUARE, 0, 0, True),
        (SQUARE, 4, 2, True),
        (SQUARE, 2, 4, True),
        (SQUARE, 4.00000004, 2, True),
        (SQUARE, 4.0000001, 2, False),
        (SQUARE, -1, 4, False),
        (SQUARE, -1, 0, False),
        (HOLED, 4, 5, False),
        (HOLED, 3, 5, True),
        (HOLED, 6, 6, True),
        (HOLED, 2, 5, True),
        (OVERLAPPING, 3, 3, True),
        (OVERLAPPING, 5, 5, True),
        (OVERLAPPING, 5, 1, False),
        (ISLAND, 3, 3, False),
        (ISLAND, 4.5, 4.5, True),
        (ISLAND, 1, 4.5, True),
        ("polygon((-180 -90, 180 -90, 180 90, -180 90, -180 -90))", 180, -90, True),
        ("POLYGON ((-1.5e1 -.5, +2. -.5, 2 3.25, -15 -0.50))", 0, 0, True),
    ],
)
def test_an_area_covers_its_inside_and_its_edges(
    area: str, lon: float, lat: float, is_covered: bool
) -> None:
    assert outcome(f"geo_within(lat, lon, '{area}')", lat, lon) is is_covered


EVERY = (
    "geo_distance(lat, lon, 1, 2)",
    "geo_distance(1, 2, lat, lon)",
    "geo_within_radius(lat, lon, 1, 2, 3)",
    f"geo_within(lat, lon, '{SQUARE}')",
    "geo_cell(lat, lon, 5)",
)


@pytest.mark.parametrize("sql", EVERY)
def test_null_stays_null_and_what_is_off_the_earth_is_an_error(sql: str) -> None:
    assert outcome(sql, None, None) is None
    assert outcome(sql, None, 999.0) is None
    assert outcome(sql, 91.0, None) is None
    for lat, lon in ((90.1, 0), (-90.1, 0), (0, 180.1), (0, -180.1), (1e308, -1e308)):
        assert outcome(sql, lat, lon) == "out_of_range"
    for lat, lon in ((90, 180), (-90, -180)):
        assert outcome(sql, lat, lon) not in (None, "out_of_range")


def test_a_negative_radius_is_an_error() -> None:
    assert outcome("geo_within_radius(0, 0, 0, 0, lat)", 0.0, None) is True
    assert outcome("geo_within_radius(0, 0, 0, 0, lat)", -1.0, None) == "out_of_range"
    assert outcome("geo_within_radius(0, 0, 0, lon, lat)", -1.0, None) is None


def test_an_error_of_an_argument_stays() -> None:
    assert outcome("geo_distance(1 / lat, lon, 0, 0)", 0.0, 1.0) == "division_by_zero"
    assert outcome("geo_cell(lat * 1e300 * lat, lon, 3)", 1e200, 1.0) == "overflow"


def test_what_bounds_prove_is_not_checked() -> None:
    assert compiled("geo_distance(safe_lat, safe_lon, -safe_lat, 0) / 1000").error is None
    assert compiled(f"geo_within(safe_lat, safe_lon, '{SQUARE}')").error is None
    assert compiled("geo_cell(safe_lat, lon, 3)").error is not None


def mistakes(sql: str) -> tuple[Mistake, ...]:
    with pytest.raises(ExpressionError) as caught:
        compiled(sql)
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("wkt", "at", "message", "hint"),
    [
        ("", "", "the WKT ends: POLYGON or MULTIPOLYGON is needed", "POLYGON (("),
        ("POINT (1 2)", "POINT", "unexpected `POINT`", "POLYGON (("),
        ("SRID=4326;POLYGON ((0 0))", "SRID", "unexpected `SRID`", ""),
        ("POLYGON", "", "the WKT ends: `(` is needed", ""),
        ("POLYGON EMPTY", "EMPTY", "unexpected `EMPTY`: `(` is needed", ""),
        ("POLYGON Z ((0 0 1))", "Z", "unexpected `Z`", ""),
        ("POLYGON (0 0, 1 0, 1 1, 0 0)", "0 0, 1 0", "unexpected `0`: `(` is needed", ""),
        ("POLYGON ((0 0, 1 0, 1 1, 0 0)", "", "the WKT ends: `,` or `)` is needed", ""),
        ("POLYGON ((0 0, 1 0, 1 1, 0 0)) x", "x", "unexpected `x`: the end is needed", ""),
        ("POLYGON ((0 0 7, 1 0))", "7", "unexpected `7`: `,` or `)` is needed", ""),
        ("POLYGON ((0, 1 0))", ", 1", "unexpected `,`: a latitude is needed", ""),
        ("POLYGON ((nan 0, 1 0))", "nan", "unexpected `nan`: a longitude is needed", ""),
        ("POLYGON ((0 1-1, 1 0))", "1-1", "unexpected `1-1`: a latitude is needed", ""),
        ("POLYGON ((0 ٣, 1 0))", "٣", "unexpected `٣`", ""),
        ("POLYGON ((1e999 0, 1 0))", "1e999", "the longitude 1e999 is not within", ""),
        (
            "POLYGON ((42 -71, 43 -91, 9 9))",
            "-91",
            "latitude -91 is not within -90",
            "longitude first",
        ),
        ("POLYGON ((0 0, 1 0, 1 1, 0 1))", "0 1)", "the ring is not closed", "where it begins"),
        ("POLYGON ((0 0, 1 0, 0 0))", "(0 0", "less than 4 positions", "three corners"),
        ("POLYGON ((0 0, 1 1, 2 2, 0 0))", "(0 0", "encloses nothing", ""),
        ("MULTIPOLYGON ((0 0, 1 0, 1 1, 0 0))", "0 0, 1 0", "`(` is needed", ""),
        (
            f"POLYGON (({'0 0,' * (MAX_POSITIONS - 1)}5 5,6 6))",
            "6 6",
            "more than 500 positions",
            "OR",
        ),
        ("POLYGON ((0 0, it''s))", "it", "unexpected `it`", ""),
    ],
)
def test_a_mistake_in_a_wkt_is_told_with_its_place(
    wkt: str, at: str, message: str, hint: str
) -> None:
    sql = f"geo_within(lat, lon, '{wkt}')"
    (mistake,) = mistakes(sql)
    assert mistake.position == (sql.index(at, 22) if at else sql.rindex("'"))
    assert message in mistake.message
    assert hint in mistake.hint


@pytest.mark.parametrize(
    ("sql", "position", "message"),
    [
        ("geo_distance(lat, lon, 91, 0)", 23, "lat2 must be -90 to 90"),
        ("geo_distance(lat, lon, 9, -180.5)", 26, "lon2 must be -180 to 180"),
        ("geo_within_radius(lat, lon, 9, 8, -1)", 34, "metres must be 0 to 21,000,000"),
        ("geo_cell(lat, lon, 13)", 19, "level must be 1 to 12"),
        ("geo_cell(lat, lon, 0)", 19, "level must be 1 to 12"),
        ("geo_cell(lat, lon, n)", 19, "`geo_cell` needs a constant for level"),
        ("geo_cell(lat, lon, 2.5)", 19, "`geo_cell` needs INTEGER, not NUMBER"),
        ("geo_cell(address, lon, 5)", 9, "`geo_cell` needs INTEGER or NUMBER, not TEXT"),
        ("geo_within(lat, lon, address)", 21, "`geo_within` needs a constant for 'WKT'"),
        ("geo_within(lat, lon, 5)", 21, "`geo_within` needs TEXT, not INTEGER"),
        ("geo_distance(lat, lon)", 0, "`geo_distance` cannot take 2 arguments"),
        ("geo_distence(lat, lon, 1, 2)", 0, "unknown function `geo_distence`"),
    ],
)
def test_a_wrong_argument_is_told_with_its_place(sql: str, position: int, message: str) -> None:
    (mistake,) = mistakes(sql)
    assert (mistake.position, message in mistake.message) == (position, True), mistake


def test_other_mistakes_are_told_beside_that_of_a_wkt() -> None:
    found = mistakes("wat > 1 OR geo_within(lat, lon, 'POLYGON ((0 0))') OR lat = 'x'")
    assert [each.position for each in found] == [0, 42, 58]
