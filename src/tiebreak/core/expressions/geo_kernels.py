"""Loops over positions on the earth, in arithmetic that gives the same bits on every machine.

Libraries' sines differ between CPU feature sets. Here is nothing but `+ - * /`, square roots and
comparisons, each correctly rounded by IEEE 754 and never fused, in one fixed order for each row.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

Degrees = NDArray[np.float64]
Numbers = NDArray[np.float64]
Ints = NDArray[np.int64]
Letters = NDArray[np.uint8]

EARTH_RADIUS_METRES = 6_371_008.8  # the mean radius of WGS 84, (2a + b) / 3
UNITS_PER_DEGREE = 10_000_000
_RADIANS_PER_DEGREE = math.pi / 180
_ARCTAN_HALF, _QUARTER_PI, _HALF_PI = 4.63647609000806093515e-01, math.pi / 4, math.pi / 2
_LETTERS = np.frombuffer(b"0123456789bcdefghjkmnpqrstuvwxyz", dtype=np.uint8)


@numba.njit(cache=True, nogil=True)
def _sine(degrees: float) -> float:  # pragma: no cover - compiled
    """The sine of 0 to 45 degrees, by fdlibm's polynomial."""
    x = degrees * _RADIANS_PER_DEGREE
    z = x * x
    tail = -2.50507602534068634195e-08 + z * 1.58969099521155010221e-10
    tail = -1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * tail)
    tail = -1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 + z * tail)
    return x + x * z * tail


@numba.njit(cache=True, nogil=True)
def _cosine(degrees: float) -> float:  # pragma: no cover - compiled
    """The cosine of 0 to 45 degrees, by fdlibm's polynomial."""
    x = degrees * _RADIANS_PER_DEGREE
    z = x * x
    tail = 2.08757232129817482790e-09 + z * -1.13596475577881948265e-11
    tail = 2.48015872894767294178e-05 + z * (-2.75573143513906633035e-07 + z * tail)
    tail = 4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 + z * tail)
    return 1.0 - (0.5 * z - z * z * tail)


@numba.njit(cache=True, nogil=True)
def _sine_cosine(degrees: float) -> tuple[float, float]:  # pragma: no cover - compiled
    """Magnitudes of sine and cosine of -180 to 180 degrees; both differences are exact."""
    x = abs(degrees)
    if x > 90.0:
        x = 180.0 - x
    if x > 45.0:
        x = 90.0 - x
        return _cosine(x), _sine(x)
    return _sine(x), _cosine(x)


@numba.njit(cache=True, nogil=True)
def _arctangent(x: float) -> float:  # pragma: no cover - compiled
    """The arc tangent of 0 to 1 in radians, by fdlibm's polynomial about 0, 1/2 or 1."""
    start = 0.0
    if x >= 0.6875:
        start, x = _QUARTER_PI, (x - 1.0) / (x + 1.0)
    elif x >= 0.4375:
        start, x = _ARCTAN_HALF, (2.0 * x - 1.0) / (2.0 + x)
    z = x * x
    tail = -3.65315727442169155270e-02 + z * 1.62858201153657823623e-02
    tail = -5.83357013379057348645e-02 + z * (4.97687799461593236017e-02 + z * tail)
    tail = -7.69187620504482999495e-02 + z * (6.66107313738753120669e-02 + z * tail)
    tail = -1.11111104054623557880e-01 + z * (9.09088713343650656196e-02 + z * tail)
    tail = -1.99999999998764832476e-01 + z * (1.42857142725034663711e-01 + z * tail)
    tail = 3.33333333333329318027e-01 + z * tail
    return start + (x - x * z * tail)


@numba.njit(cache=True, nogil=True)
def _metres(  # pragma: no cover - compiled
    lat1: float, lon1: float, lat2: float, lon2: float
) -> float:
    """The great-circle distance; NaN when a coordinate is.

    With a the haversine of the angle between the two positions and b that of its supplement,
    the angle is 2 atan(√a / √b). Both are sums of squares, so nothing cancels, near or far.
    """
    meridians_sine, meridians_cosine = _sine_cosine((lon2 - lon1) * 0.5)
    difference, _ = _sine_cosine((lat2 - lat1) * 0.5)
    total, _ = _sine_cosine((lat2 + lat1) * 0.5)
    parallels = _sine_cosine(lat1)[1] * _sine_cosine(lat2)[1]
    near = math.sqrt(difference * difference + parallels * (meridians_sine * meridians_sine))
    far = math.sqrt(total * total + parallels * (meridians_cosine * meridians_cosine))
    is_near = near <= far
    half = _arctangent(near / far) if is_near else _HALF_PI - _arctangent(far / near)
    return 2.0 * EARTH_RADIUS_METRES * half


@numba.njit(cache=True, nogil=True)
def distances(  # pragma: no cover - compiled
    lat1: Degrees, lon1: Degrees, lat2: Degrees, lon2: Degrees
) -> Numbers:
    """Great-circle distances in metres, (n,); coordinates in range or NaN, which gives NaN."""
    found = np.full(lat1.shape[0], np.nan)
    for i in range(lat1.shape[0]):
        total = lat1[i] + lon1[i] + lat2[i] + lon2[i]
        if total == total:
            found[i] = _metres(lat1[i], lon1[i], lat2[i], lon2[i])
    return found


@numba.njit(cache=True, nogil=True)
def insides(  # pragma: no cover - compiled
    lat: Degrees, lon: Degrees, edges: Ints, owners: Ints
) -> Numbers:
    """1 where a polygon covers the position, 0 where none does, NaN where it is NaN; (n,).

    `edges` (m, 4) are lon, lat, lon, lat in units of 1e-7 degrees, ordered by polygon; `owners`
    (m,) numbers their polygons from 0. Exact in integers: no product passes 6.5e18.
    """
    found = np.full(lat.shape[0], np.nan)
    for i in range(lat.shape[0]):
        total = lat[i] + lon[i]
        if total == total:
            x = np.int64(np.rint(lon[i] * UNITS_PER_DEGREE))
            y = np.int64(np.rint(lat[i] * UNITS_PER_DEGREE))
            found[i] = 1.0 if _is_covered(x, y, edges, owners) else 0.0
    return found


@numba.njit(cache=True, nogil=True)
def _is_covered(  # pragma: no cover - compiled
    x: np.int64, y: np.int64, edges: Ints, owners: Ints
) -> bool:
    """Whether the position lies on an edge, or an odd number of a polygon's edges east of it."""
    is_odd = False
    owner = 0
    for edge in range(edges.shape[0]):
        if owners[edge] != owner:
            if is_odd:
                return True
            owner = owners[edge]
        x1, y1, x2, y2 = edges[edge]
        rise, run = (x2 - x1) * (y - y1), (x - x1) * (y2 - y1)
        if rise == run and min(x1, x2) <= x <= max(x1, x2) and min(y1, y2) <= y <= max(y1, y2):
            return True
        if (y1 > y) != (y2 > y) and (rise > run) == (y2 > y1):
            is_odd = not is_odd
    return is_odd


@numba.njit(cache=True, nogil=True)
def geohashes(lat: Degrees, lon: Degrees, level: int) -> Letters:  # pragma: no cover - compiled
    """The letters of each position's geohash in ASCII, (n, level); zeros where it is NaN.

    Each bit halves a range at its middle, a double without rounding, longitude first.
    """
    letters = np.zeros((lat.shape[0], level), dtype=np.uint8)
    for i in range(lat.shape[0]):
        total = lat[i] + lon[i]
        if total != total:
            continue
        west, east, south, north = -180.0, 180.0, -90.0, 90.0
        number = 0
        for bit in range(5 * level):
            if bit % 2 == 0:
                middle = (west + east) * 0.5
                is_upper = lon[i] >= middle
                west, east = (middle, east) if is_upper else (west, middle)
            else:
                middle = (south + north) * 0.5
                is_upper = lat[i] >= middle
                south, north = (middle, north) if is_upper else (south, middle)
            number = number * 2 + (1 if is_upper else 0)
            if bit % 5 == 4:
                letters[i, bit // 5] = _LETTERS[number]
                number = 0
    return letters
