"""Areas written as WKT: POLYGON and MULTIPOLYGON of longitudes and latitudes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.expressions.geo_kernels import UNITS_PER_DEGREE
from tiebreak.core.expressions.mistakes import SyntaxMistake

MAX_POSITIONS = 500
_TOKEN = re.compile(r"[A-Za-z]+|[-+.0-9][-+.0-9eE]*|\S")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_FORM = "write it as 'POLYGON ((lon lat, lon lat, …))'"

Item = TypeVar("Item")
Position = tuple[int, int]  # longitude and latitude in units of 1e-7 degrees


@dataclass(frozen=True, eq=False, slots=True)
class Area:
    """What one or more polygons cover.

    `edges` (m, 4) are lon, lat, lon, lat in units of 1e-7 degrees, of outer rings and holes
    alike, ordered by polygon; `owners` (m,) numbers their polygons from 0.
    """

    edges: NDArray[np.int64]
    owners: NDArray[np.int64]


def parse_area(text: str, position: int) -> Area:
    """The area that a text at this position describes; raises `SyntaxMistake`."""
    polygons = _Parser(text, position).parse()
    edges = [
        (*start, *end, owner)
        for owner, rings in enumerate(polygons)
        for ring in rings
        for start, end in pairwise(ring)
    ]
    table = np.array(edges, dtype=np.int64)
    return Area(np.ascontiguousarray(table[:, :4]), np.ascontiguousarray(table[:, 4]))


class _Parser:
    """Reads one WKT text from left to right, up to its first mistake."""

    def __init__(self, text: str, position: int) -> None:
        found = [(each.group(), position + each.start()) for each in _TOKEN.finditer(text)]
        self._tokens = [*found, ("", position + len(text))]
        self._at = 0
        self._positions = 0

    def parse(self) -> list[list[list[Position]]]:
        """The polygons, each a list of rings, each a closed list of positions."""
        kind = self._tokens[0][0].upper()
        if kind not in ("POLYGON", "MULTIPOLYGON"):
            self._refuse("POLYGON or MULTIPOLYGON")
        self._at = 1
        polygons = [self._rings()] if kind == "POLYGON" else self._list(self._rings)
        if self._tokens[self._at][0]:
            self._refuse("the end")
        return polygons

    def _refuse(self, wanted: str) -> NoReturn:
        text, place = self._tokens[self._at]
        found = f"unexpected `{text}`" if text else "the WKT ends"
        raise SyntaxMistake(f"{found}: {wanted} is needed", place, _FORM)

    def _expect(self, *symbols: str) -> str:
        found = self._tokens[self._at][0]
        if found not in symbols:
            self._refuse(" or ".join(f"`{symbol}`" for symbol in symbols))
        self._at += 1
        return found

    def _list(self, read: Callable[[], Item]) -> list[Item]:
        self._expect("(")
        items = [read()]
        while self._expect(",", ")") == ",":
            items.append(read())
        return items

    def _rings(self) -> list[list[Position]]:
        return self._list(self._ring)

    def _ring(self) -> list[Position]:
        start = self._tokens[self._at][1]
        ring = self._list(self._position)
        if ring[0] != ring[-1]:
            place = self._tokens[self._at - 3][1]
            raise SyntaxMistake("the ring is not closed", place, "end it where it begins")
        if len(ring) < 4:
            hint = "three corners, and the first one once more"
            raise SyntaxMistake("the ring has less than 4 positions", start, hint)
        if sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring)) == 0:
            raise SyntaxMistake("the ring encloses nothing", start)
        return ring

    def _position(self) -> Position:
        self._positions += 1
        if self._positions > MAX_POSITIONS:
            raise SyntaxMistake(
                f"the area has more than {MAX_POSITIONS} positions",
                self._tokens[self._at][1],
                "simplify it, or join several areas with OR",
            )
        return self._coordinate("longitude", 180), self._coordinate("latitude", 90)

    def _coordinate(self, name: str, limit: int) -> int:
        text, place = self._tokens[self._at]
        if not _NUMBER.fullmatch(text):
            self._refuse(f"a {name}")
        degrees = float(text)
        if not -limit <= degrees <= limit:
            raise SyntaxMistake(
                f"the {name} {text} is not within -{limit} to {limit}",
                place,
                "WKT writes the longitude first",
            )
        self._at += 1
        return round(degrees * UNITS_PER_DEGREE)
