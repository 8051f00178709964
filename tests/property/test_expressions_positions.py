"""Positions on the earth: against exact references, alone and in batches, on any machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from tiebreak.core.expressions import Scope, Symbol, Type, compile_expression
from tiebreak.core.workflow import Calendar

NAMES = ("lat", "lon", "lat2", "lon2", "metres")
SCOPE = Scope({name: Symbol(Type.NUMBER) for name in NAMES}, Calendar())
AREA = "POLYGON ((-72 41, 10 41.5, 12 58, -72 44, -72 41), (-10 43, 5 43, 5 45, -10 43))"
EVERY = (
    "geo_distance(lat, lon, lat2, lon2)",
    "geo_distance(lat, lon, 42.36, -71.06)",
    "geo_within_radius(lat, lon, lat2, lon2, metres)",
    f"geo_within(lat, lon, '{AREA}')",
    "geo_cell(lat, lon, 12)",
    "geo_distance(lat + lon2, lon, lat2, lon2) / 1000 > metres OR geo_cell(lat, lon, 1) = 's'",
)
RADIUS = 6_371_008.8
LETTERS = "0123456789bcdefghjkmnpqrstuvwxyz"


def value(sql: str, frame: pl.DataFrame) -> pl.Series:
    return frame.select(compile_expression(sql, SCOPE).value.alias("v")).to_series()


def pairs_of_places(count: int) -> pl.DataFrame:
    """Random pairs, a quarter of them near each other, a quarter nearly opposite, some poles."""
    rng = np.random.default_rng(7)
    lat, lon = rng.uniform(-90, 90, (2, count)), rng.uniform(-180, 180, (2, count))
    quarter = count // 4
    step = rng.normal(0, 1, (2, count)) * 10.0 ** rng.uniform(-12, 1, count)
    near, far = slice(0, quarter), slice(quarter, 2 * quarter)
    lat[1, near], lon[1, near] = lat[0, near] + step[0, near], lon[0, near] + step[1, near]
    opposite = np.where(lon[0] > 0, lon[0] - 180, lon[0] + 180)
    lat[1, far], lon[1, far] = step[0, far] - lat[0, far], opposite[far] + step[1, far]
    lat[0, -100:-50], lat[1, -75:-25], lat[1, -25:] = 90, -90, 0
    lat, lon = lat.clip(-90, 90), lon.clip(-180, 180)
    columns = (lat[0], lon[0], lat[1], lon[1], rng.uniform(0, 2e7, count))
    return pl.DataFrame(dict(zip(NAMES, columns, strict=True)))


def exact_metres(frame: pl.DataFrame) -> np.ndarray:
    """The great-circle distance in 64-bit mantissas."""
    lat1, lon1, lat2, lon2 = (frame[name].to_numpy().astype(np.longdouble) for name in NAMES[:4])
    degree = np.arctan2(np.longdouble(1), np.longdouble(0)) / 90
    cosines = np.sin((90 - abs(lat1)) * degree) * np.sin((90 - abs(lat2)) * degree)
    half = abs(lon2 - lon1) / 2
    near = np.sin((lat2 - lat1) / 2 * degree) ** 2 + cosines * np.sin(half * degree) ** 2
    far = np.sin((lat2 + lat1) / 2 * degree) ** 2 + cosines * np.sin((90 - half) * degree) ** 2
    return 2 * np.longdouble(RADIUS) * np.arctan2(np.sqrt(near), np.sqrt(far))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no wider floats to compare with")
def test_distances_are_those_of_a_great_circle() -> None:
    frame = pairs_of_places(100_000)
    found, wanted = value(EVERY[0], frame).to_numpy(), exact_metres(frame)
    assert wanted.min() < 1e-5
    assert wanted.max() > 20_015_114
    error = abs(found - wanted)
    assert (error < 1e-8).all()
    is_straight = (abs(frame["lon2"] - frame["lon"]) <= 180).to_numpy()
    assert (error <= 1e-15 * wanted)[is_straight].all()


def test_a_distance_is_the_same_both_ways_and_zero_at_home() -> None:
    frame = pairs_of_places(10_000)
    back = value("geo_distance(lat2, lon2, lat, lon)", frame)
    assert value(EVERY[0], frame).equals(back)
    assert value("geo_distance(lat, lon, lat, lon)", frame).unique().to_list() == [0.0]
    assert value("geo_distance(lat, -180, lat, 180)", frame).unique().to_list() == [0.0]


def test_within_a_radius_is_a_distance_compared() -> None:
    frame = pairs_of_places(10_000)
    compared = value("geo_distance(lat, lon, lat2, lon2) <= metres", frame)
    assert compared.n_unique() == 2
    assert value(EVERY[2], frame).equals(compared)
    exact = frame.with_columns(metres=value(EVERY[0], frame))
    assert value(EVERY[2], exact).all()


@st.composite
def _polygons(draw: st.DrawFn) -> BaseGeometry:
    """One or two valid polygons of half degrees, often with holes, written without rounding."""
    degrees = st.tuples(st.integers(-20, 20), st.integers(-20, 20))
    rings = [draw(st.lists(degrees, min_size=3, max_size=12, unique=True)) for _ in range(3)]
    parts = [shapely.Polygon([(x / 2, y / 2) for x, y in ring]).buffer(0) for ring in rings]
    area = parts[0].difference(parts[1]) if draw(st.booleans()) else parts[0].union(parts[1])
    rounded = shapely.set_precision(area.union(parts[2]), 1e-7)
    pieces = [each for each in shapely.get_parts(rounded) if isinstance(each, shapely.Polygon)]
    return pieces[0] if len(pieces) == 1 else shapely.MultiPolygon(pieces)


@settings(max_examples=150, deadline=None)
@given(area=_polygons(), seed=st.integers(0, 2**32))
def test_an_area_covers_what_shapely_says(area: BaseGeometry, seed: int) -> None:
    if area.is_empty:
        return
    rng = np.random.default_rng(seed)
    points = np.vstack([rng.integers(-22, 23, (200, 2)) / 2, rng.uniform(-11, 11, (200, 2))])
    corners = shapely.get_coordinates(area)
    frame = pl.DataFrame(
        {"lat": [*points[:, 1], *corners[:, 1]], "lon": [*points[:, 0], *corners[:, 0]]}
    )
    found = value(f"geo_within(lat, lon, '{shapely.to_wkt(area, 7)}')", frame)
    wanted = shapely.intersects_xy(area, frame["lon"].to_numpy(), frame["lat"].to_numpy())
    is_grazing = shapely.distance(area.boundary, shapely.points(frame["lon"], frame["lat"])) < 1e-6
    on_corner = np.arange(frame.height) >= len(points)
    assert (found.to_numpy() == wanted)[~is_grazing].all()
    assert found.to_numpy()[on_corner].all()


@settings(max_examples=100, deadline=None)
@given(
    ends=st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), min_size=4, max_size=4),
    steps=st.integers(1, 5),
)
def test_every_position_on_an_edge_is_covered(ends: list[tuple[int, int]], steps: int) -> None:
    ring = shapely.Polygon(ends)
    if not ring.is_valid or ring.area == 0:
        return
    corners = np.array([*ends, ends[0]], dtype=float)
    on_edges = [
        start + (end - start) * part / 2**steps
        for start, end in pairwise(corners)
        for part in range(2**steps)
    ]
    frame = pl.DataFrame(np.array(on_edges), schema=["lon", "lat"])
    assert value(f"geo_within(lat, lon, '{ring.wkt}')", frame).all()


def exact_geohash(lat: float, lon: float, level: int) -> str:
    """By exact division instead of by halving."""
    bits = [(5 * level + 1) // 2, 5 * level // 2]
    numbers = [
        min(int((Fraction(degrees) + half) * 2**count / (2 * half)), 2**count - 1)
        for degrees, half, count in zip((lon, lat), (180, 90), bits, strict=True)
    ]
    texts = [
        f"{number:0{count}b}" if count else "" for number, count in zip(numbers, bits, strict=True)
    ]
    mixed = "".join(texts[i % 2][i // 2] for i in range(5 * level))
    return "".join(LETTERS[int(mixed[i : i + 5], 2)] for i in range(0, len(mixed), 5))


@settings(max_examples=300, deadline=None)
@given(
    lat=st.floats(-90, 90) | st.integers(-(2**20), 2**20).map(lambda i: i * 90 / 2**20),
    lon=st.floats(-180, 180) | st.integers(-(2**20), 2**20).map(lambda i: i * 180 / 2**20),
    level=st.integers(1, 12),
)
def test_a_cell_is_the_exact_geohash(lat: float, lon: float, level: int) -> None:
    frame = pl.DataFrame({"lat": [lat], "lon": [lon]})
    assert value(f"geo_cell(lat, lon, {level})", frame).to_list() == [
        exact_geohash(lat, lon, level)
    ]


_DEGREES = st.none() | st.floats(-95, 95) | st.sampled_from([0.0, -0.0, 90.0, -90.0, 1e300, 41.0])
_METRES = st.none() | st.floats(-1, 2.2e7) | st.sampled_from([0.0, -1e308, 5e-324])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[_DEGREES] * 4, _METRES), min_size=1, max_size=130),
    is_constant=st.booleans(),
)
def test_any_batch_gives_the_same_bits(
    rows: list[tuple[float | None, ...]], is_constant: bool
) -> None:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.Float64), orient="row")
    if is_constant:
        frame = frame.with_columns(
            pl.lit(rows[0][2], dtype=pl.Float64).alias("lat2"), lon2=pl.lit(7.0)
        )
    for sql in EVERY:
        compiled = compile_expression(sql, SCOPE)
        assert compiled.error is not None
        both = [compiled.value.alias("v"), compiled.error.alias("e")]
        whole = frame.select(both)
        assert not (whole["v"].is_not_null() & whole["e"].is_not_null()).any()
        assert frame.head(0).select(both).schema == whole.schema
        for size in (1, 2, 7, 64):
            parts = pl.concat([batch.select(both) for batch in frame.iter_slices(size)])
            assert parts.equals(whole), (size, sql)


def digest() -> str:
    """Every bit of every function's results on many places."""
    frame = pairs_of_places(20_000)
    texts = [value(sql, frame).cast(pl.String).str.join("|").item() for sql in EVERY[1:]]
    texts.append(value(EVERY[0], frame).to_numpy().tobytes().hex())
    return hashlib.sha256("".join(texts).encode()).hexdigest()


@pytest.mark.full
def test_another_cpu_gives_the_same_bits(tmp_path: Path) -> None:
    """Compiled for the plainest CPU of this kind: no fused, no wide instructions."""
    plain = {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += f"import {Path(__file__).stem} as places; print(places.digest())"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **plain},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == digest()
