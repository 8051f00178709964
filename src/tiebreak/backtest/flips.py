"""Flips: how often tickets moved from one band and route to another, by what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.bands import Band

ROUTES = ("auto", "tiebreak", "review")
TRUTHS = ("unknown", "negative", "positive")  # what the label says of a ticket
SHAPE = (len(Band), len(Band), len(ROUTES), len(ROUTES), len(TRUTHS))
AXES = ("band_before", "band_after", "route_before", "route_after", "truth")
FLAGGED_FROM = int(Band.HIGH)
REVIEW, TIEBREAK = ROUTES.index("review"), ROUTES.index("tiebreak")
POSITIVE, NEGATIVE = TRUTHS.index("positive"), TRUTHS.index("negative")
EXAMPLES = 10  # tickets of each kind that are named
NOTHING = "(none)"  # the segment of tickets without a value

Cells = Counter[int]  # how many tickets fell into each cell of SHAPE, by its flat index
Segments = dict[str, Cells]

_BEFORE_FLAGGED = (pl.col("band_before") >= FLAGGED_FROM) | (pl.col("route_before") == REVIEW)
_AFTER_FLAGGED = (pl.col("band_after") >= FLAGGED_FROM) | (pl.col("route_after") == REVIEW)
KINDS: Mapping[str, pl.Expr] = {
    "raised": pl.col("band_after") > pl.col("band_before"),
    "lowered": pl.col("band_after") < pl.col("band_before"),
    "newly_caught": (pl.col("truth") == POSITIVE) & ~_BEFORE_FLAGGED & _AFTER_FLAGGED,
    "newly_missed": (pl.col("truth") == POSITIVE) & _BEFORE_FLAGGED & ~_AFTER_FLAGGED,
    "new_needless_reviews": (pl.col("truth") == NEGATIVE)
    & (pl.col("route_before") != REVIEW)
    & (pl.col("route_after") == REVIEW),
}
SHOWN = ("ticket_id", "revision", "as_of", "decision_id", *AXES)


@dataclass(slots=True)
class Tally:
    """What is counted over any number of tickets; tallies of parts add up to that of the whole.

    `skipped` counts tickets that could not be compared, by why; `sources` where the decision
    before came from, `errors` the expressions of the new policy that could not be evaluated,
    `marks` ties before and after, and tickets from before the model's `valid_from`.
    """

    cells: Cells = field(default_factory=Counter[int])
    months: Segments = field(default_factory=dict[str, Cells])
    segments: dict[str, Segments] = field(default_factory=dict[str, Segments])
    examples: dict[str, list[dict[str, Any]]] = field(
        default_factory=dict[str, list[dict[str, Any]]]
    )
    skipped: Counter[str] = field(default_factory=Counter[str])
    sources: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    marks: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def of(cls, decided: pl.DataFrame, by: Sequence[str]) -> Tally:
        """Count tickets: SHOWN (AXES as integers), `ticket_hash`, `month`, `by NAME` for segments.

        Which examples are kept depends on the tickets' hashes alone: an unbiased choice that no
        batch or order changes.
        """
        cell = sum(
            pl.col(axis).cast(pl.Int64) * int(np.prod(SHAPE[i + 1 :], dtype=np.int64))
            for i, axis in enumerate(AXES)
        )
        frame = decided.with_columns(cell=cell)
        found = frame["cell"].value_counts().iter_rows()
        tally = cls(cells=Counter(dict(found)), months=_segments(frame, "month"))
        tally.segments = {name: _segments(frame, f"by {name}") for name in by}
        for kind, condition in KINDS.items():
            chosen = frame.filter(condition).select("ticket_hash", *SHOWN)
            tally.examples[kind] = _first(chosen.to_dicts())
        return tally

    def add(self, other: Tally) -> None:
        """Add what another tally counted."""
        self.cells.update(other.cells)
        self.skipped.update(other.skipped)
        self.sources.update(other.sources)
        self.errors.update(other.errors)
        self.marks.update(other.marks)
        _add_segments(self.months, other.months)
        for name, segments in other.segments.items():
            _add_segments(self.segments.setdefault(name, {}), segments)
        for kind, examples in other.examples.items():
            self.examples[kind] = _first([*self.examples.get(kind, []), *examples])

    def as_data(self) -> dict[str, Any]:
        """The tally as plain data."""
        return {
            "cells": _pairs(self.cells),
            "months": {name: _pairs(cells) for name, cells in self.months.items()},
            "segments": {
                name: {value: _pairs(cells) for value, cells in segments.items()}
                for name, segments in self.segments.items()
            },
            "examples": self.examples,
            "skipped": dict(self.skipped),
            "sources": dict(self.sources),
            "errors": dict(self.errors),
            "marks": dict(self.marks),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Tally:
        """The tally that `as_data` described."""
        return cls(
            cells=_cells(data["cells"]),
            months={name: _cells(pairs) for name, pairs in data["months"].items()},
            segments={
                name: {value: _cells(pairs) for value, pairs in segments.items()}
                for name, segments in data["segments"].items()
            },
            examples=data["examples"],
            skipped=Counter(data["skipped"]),
            sources=Counter(data["sources"]),
            errors=Counter(data["errors"]),
            marks=Counter(data["marks"]),
        )


def cube(cells: Cells) -> NDArray[np.int64]:
    """The counts as an array of SHAPE."""
    counts = np.zeros(int(np.prod(SHAPE)), dtype=np.int64)
    for cell, count in cells.items():
        counts[cell] = count
    return counts.reshape(SHAPE)


def folded(segments: Segments, *, smallest: int, most: int) -> list[tuple[str, Cells]]:
    """The largest segments, at most `most`; all others, and those too small to show, as one."""
    by_size = sorted(segments.items(), key=lambda item: (-item[1].total(), item[0]))
    kept = [item for item in by_size if item[1].total() >= smallest][:most]
    names = {name for name, _ in kept}
    rest: Cells = Counter()
    for name, cells in by_size:
        if name not in names:
            rest.update(cells)
    return [*kept, ("(others)", rest)] if rest else kept


def _segments(frame: pl.DataFrame, name: str) -> Segments:
    value = pl.col(name).cast(pl.String).fill_null(NOTHING)
    counted = frame.group_by(value.alias("value"), "cell").len()
    found: Segments = {}
    for segment, cell, count in counted.iter_rows():
        found.setdefault(segment, Counter())[cell] = count
    return found


def _add_segments(to: Segments, others: Segments) -> None:
    for name, cells in others.items():
        to.setdefault(name, Counter()).update(cells)


def _first(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(examples, key=lambda e: (e["ticket_hash"], e["ticket_id"]))[:EXAMPLES]


def _pairs(cells: Cells) -> list[list[int]]:
    return [[cell, cells[cell]] for cell in sorted(cells)]


def _cells(pairs: Iterable[tuple[int, int]]) -> Cells:
    return Counter(dict(pairs))
