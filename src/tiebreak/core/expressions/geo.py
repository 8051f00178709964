"""Positions on the earth: distances, areas and cells of a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.expressions import geo_kernels
from tiebreak.core.expressions.operands import (
    Operand,
    as_number,
    boolean,
    code_where,
    first_error,
)
from tiebreak.core.expressions.scope import Type
from tiebreak.core.expressions.texts import text
from tiebreak.core.expressions.wkt import Area, parse_area

LATITUDES, LONGITUDES = (-90, 90), (-180, 180)
RADII = (0, 21_000_000)  # metres; half the way round the earth is 20,015,115
LEVELS = (1, 12)
_POSITION = (LATITUDES, LONGITUDES)


def distance(arguments: Sequence[Operand], position: int) -> Operand:
    """`geo_distance(lat1, lon1, lat2, lon2)` in metres, along a great circle of a sphere."""
    value, error = _row_by_row(_distances, arguments, (*_POSITION, *_POSITION), Type.NUMBER)
    return Operand(Type.NUMBER, value, position, error, low=0.0, high=float(RADII[1]))


def within_radius(arguments: Sequence[Operand], position: int) -> Operand:
    """`geo_within_radius(lat, lon, lat0, lon0, metres)`: whether the distance is at most that."""
    limits = (*_POSITION, *_POSITION, RADII)
    value, error = _row_by_row(_within_radii, arguments, limits, Type.BOOLEAN)
    return boolean(value, position, error)


def within(arguments: Sequence[Operand], position: int) -> Operand:
    """`geo_within(lat, lon, 'WKT')`: whether the area covers it; raises `SyntaxMistake`."""
    *point, wkt = arguments
    area = parse_area(wkt.literal, wkt.position + 1)
    value, error = _row_by_row(partial(_within_area, area), point, _POSITION, Type.BOOLEAN)
    return boolean(value, position, error)


def cell(arguments: Sequence[Operand], position: int) -> Operand:
    """`geo_cell(lat, lon, level)`: the geohash of `level` characters."""
    *point, level = arguments
    value, error = _row_by_row(partial(_cells, level.literal), point, _POSITION, Type.TEXT)
    return text(value, position, error)


def _row_by_row(
    loop: Callable[[pl.Series], pl.Series],
    operands: Sequence[Operand],
    limits: Sequence[tuple[int, int]],
    type_: Type,
) -> tuple[pl.Expr, pl.Expr | None]:
    """The value that a compiled loop gives for each row, and "out_of_range" beyond the limits.

    The loop takes a struct of doubles within their limits or null, and gives null for null. It
    is called once here, so that the machine code is ready before the first ticket.
    """
    names = [str(index) for index in range(len(operands))]
    loop(pl.DataFrame(schema=dict.fromkeys(names, pl.Float64)).to_struct())
    values = [as_number(operand).value for operand in operands]
    limited: list[pl.Expr] = []
    outside: list[pl.Expr] = []
    for operand, value, (low, high) in zip(operands, values, limits, strict=True):
        if low <= operand.low and operand.high <= high:
            limited.append(value)
        else:
            is_within = value.is_between(low, high)
            limited.append(pl.when(is_within).then(value))
            outside.append(~is_within)
    rows = pl.struct(each.alias(name) for each, name in zip(limited, names, strict=True))
    found = rows.map_batches(loop, return_dtype=type_.dtype, is_elementwise=True)
    errors = [operand.error for operand in operands]
    if outside:
        has_all = pl.all_horizontal(value.is_not_null() for value in values)
        errors.append(code_where(has_all & pl.any_horizontal(outside), "out_of_range"))
    return found, first_error(*errors)


def _columns(rows: pl.Series) -> list[NDArray[np.float64]]:
    """The fields as arrays of one layout, for which the loops are compiled once; NaN is null."""
    return [column.to_numpy(writable=True) for column in rows.struct.unnest()]


def _distances(rows: pl.Series) -> pl.Series:
    return pl.Series(geo_kernels.distances(*_columns(rows)), nan_to_null=True)


def _within_radii(rows: pl.Series) -> pl.Series:
    *positions, metres = _columns(rows)
    found = pl.Series(geo_kernels.distances(*positions), nan_to_null=True)
    return found <= pl.Series(metres, nan_to_null=True)


def _within_area(area: Area, rows: pl.Series) -> pl.Series:
    lat, lon = _columns(rows)
    found = geo_kernels.insides(lat, lon, area.edges, area.owners)
    return pl.Series(found, nan_to_null=True).cast(pl.Boolean)


def _cells(level: int, rows: pl.Series) -> pl.Series:
    lat, lon = _columns(rows)
    letters = geo_kernels.geohashes(lat, lon, level).view(f"S{level}").ravel().astype(str)
    return pl.Series([each or None for each in letters.tolist()], dtype=pl.String)
