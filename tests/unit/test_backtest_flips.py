"""Tallies: what falls into which cell, sums of parts, and the figures made of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest

from tiebreak.backtest.flips import AXES, EXAMPLES, ROUTES, TRUTHS, Tally, cube, folded
from tiebreak.backtest.outcomes import figures

LOW, MEDIUM, HIGH, CRITICAL = range(4)
AUTO, TIEBREAK, REVIEW = range(len(ROUTES))
UNKNOWN, GOOD, BAD = range(len(TRUTHS))


def frame(*moves: tuple[int, int, int, int, int], start: int = 0) -> pl.DataFrame:
    """Tickets that moved so: bands before and after, routes before and after, truth."""
    numbers = range(start, start + len(moves))
    columns: dict[str, Any] = {
        axis: pl.Series([move[i] for move in moves], dtype=pl.Int64) for i, axis in enumerate(AXES)
    }
    return pl.DataFrame(
        {
            "ticket_id": [f"t{i}" for i in numbers],
            "revision": [1 for _ in numbers],
            "as_of": ["2026-01-01T00:00:00" for _ in numbers],
            "month": [f"2026-0{1 + i % 3}" for i in numbers],
            "decision_id": pl.Series([None for _ in numbers], dtype=pl.String),
            "ticket_hash": [(i * 7919) % 1009 for i in numbers],
            "by town": [None if i % 4 == 0 else f"town {i % 4}" for i in numbers],
            **columns,
        }
    )


MOVES = (
    (LOW, HIGH, AUTO, AUTO, BAD),  # caught, by its band alone
    (LOW, LOW, AUTO, REVIEW, BAD),  # caught, by its route alone
    (CRITICAL, MEDIUM, REVIEW, AUTO, BAD),  # missed now
    (MEDIUM, MEDIUM, AUTO, AUTO, BAD),  # missed as before
    (LOW, CRITICAL, AUTO, REVIEW, GOOD),  # a needless review more
    (CRITICAL, LOW, REVIEW, AUTO, GOOD),  # a needless review less
    (LOW, CRITICAL, TIEBREAK, REVIEW, UNKNOWN),
    (HIGH, HIGH, AUTO, REVIEW, BAD),  # caught as before
    (LOW, LOW, REVIEW, REVIEW, GOOD),  # a needless review as before
)


def test_figures_count_what_they_are_called() -> None:
    tally = Tally.of(frame(*MOVES), ["town"])
    found = figures(tally.cells, minutes_a_review=30)
    assert (found["tickets"], found["flips"], found["raised"], found["lowered"]) == (9, 5, 3, 2)
    assert found["rerouted"] == 6
    assert found["bands"][LOW] == [2, 0, 1, 2]
    assert found["routes"][TIEBREAK] == [0, 0, 1]
    assert found["reviews"] == {"before": 3, "after": 5, "change": 2}
    assert found["reviewer_hours"] == {"before": 1.5, "after": 2.5, "change": 1.0}
    assert found["outcomes"] == {"unknown": 1, "negative": 3, "positive": 5}
    assert found["caught"] == {"before": 2, "after": 3, "change": 1}
    assert found["missed"] == {"before": 3, "after": 2, "change": -1}
    assert found["needless_reviews"] == {"before": 2, "after": 2, "change": 0}
    new = (found["newly_caught"], found["newly_missed"], found["new_needless_reviews"])
    assert new == (2, 1, 1)
    named = {kind: [e["ticket_id"] for e in each] for kind, each in tally.examples.items()}
    assert sorted(named["newly_caught"]) == ["t0", "t1"]
    assert named["newly_missed"] == ["t2"]
    assert named["new_needless_reviews"] == ["t4"]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_tallies_of_parts_add_up_to_that_of_the_whole(size: int) -> None:
    random = np.random.default_rng(5)
    moves = [tuple(random.integers(0, (4, 4, 3, 3, 3)).tolist()) for _ in range(200)]
    whole = Tally.of(frame(*moves), ["town"])
    parts = Tally()
    for start in range(0, len(moves), size):
        part = Tally.of(frame(*moves[start : start + size], start=start), ["town"])
        part.skipped, part.errors = Counter(erased=1), Counter({"rules.a: x": 2})
        parts.add(Tally.from_data(orjson.loads(orjson.dumps(part.as_data()))))
    assert parts.skipped["erased"] == len(range(0, len(moves), size))
    assert parts.errors["rules.a: x"] == 2 * parts.skipped["erased"]
    parts.skipped, parts.errors = Counter(), Counter()
    assert parts.as_data() == whole.as_data()
    assert cube(parts.cells).sum() == len(moves)
    hashes = sorted((i * 7919) % 1009 for i, move in enumerate(moves) if move[1] > move[0])
    assert [each["ticket_hash"] for each in parts.examples["raised"]] == hashes[:EXAMPLES]


def test_small_segments_and_those_beyond_the_most_are_told_together() -> None:
    segments = {"a": Counter({3: 50}), "b": Counter({3: 40}), "c": Counter({3: 20, 4: 1})}
    segments |= {"tiny": Counter({9: 2})}
    found = folded(segments, smallest=10, most=2)
    assert [name for name, _ in found] == ["a", "b", "(others)"]
    assert found[2][1] == Counter({3: 20, 4: 1, 9: 2})
    assert folded({"a": Counter({3: 50})}, smallest=10, most=2) == [("a", Counter({3: 50}))]
