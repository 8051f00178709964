"""Sequential tests: false alarms stay below alpha however often one looks, and harm is found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tiebreak.release.sequential import NONE, Block, Counts, evidence, side_by_side

ALPHA = 0.05
LIMIT = math.log(1 / ALPHA)
RUNS, BLOCKS = 200, 200


def drawn(
    chance: np.random.Generator, rate: float, more: float, *, is_drifting: bool = False
) -> list[Block]:
    """Blocks of a canary with 5 % of the tickets, whose rate is higher by `more`."""
    blocks: list[Block] = []
    for number in range(BLOCKS):
        t = rate * (1 + np.sin(number / 20)) if is_drifting else rate
        a, b = int(chance.poisson(2)), int(chance.poisson(38))
        blocks.append(
            Block(
                Counts(int(chance.binomial(a, min(1, t + more))), a),
                Counts(int(chance.binomial(b, t)), b),
            )
        )
    return blocks


@pytest.mark.parametrize("is_drifting", [False, True])
@pytest.mark.parametrize("rate", [0.002, 0.05, 0.4])
def test_looking_all_the_time_gives_no_more_false_alarms_than_alpha(
    rate: float, is_drifting: bool
) -> None:
    chance = np.random.default_rng(20260101)
    runs = [drawn(chance, rate, 0.0, is_drifting=is_drifting) for _ in range(RUNS)]
    # The largest so far is what somebody finds who looks after every block.
    alarms = sum(evidence(run, tolerance=0.0, seed=1) >= LIMIT for run in runs)
    assert alarms <= ALPHA * RUNS


def test_a_rate_within_the_tolerance_is_no_harm() -> None:
    chance = np.random.default_rng(20260102)
    # As far above production's as is tolerated: p + t (1 - p).
    runs = [drawn(chance, 0.2, 0.1 * 0.8) for _ in range(RUNS)]
    alarms = sum(evidence(run, tolerance=0.1, seed=i) >= LIMIT for i, run in enumerate(runs))
    assert alarms <= ALPHA * RUNS
    without = sum(evidence(run, tolerance=0.0, seed=1) >= LIMIT for run in runs)
    assert without > 0.3 * RUNS  # which a test without tolerance would find


@pytest.mark.parametrize(("rate", "more"), [(0.0, 0.05), (0.02, 0.08), (0.3, 0.2)])
def test_real_harm_is_found(rate: float, more: float) -> None:
    chance = np.random.default_rng(20260103)
    runs = [drawn(chance, rate, more) for _ in range(100)]
    found = sum(evidence(run, tolerance=0.002, seed=1) >= LIMIT for run in runs)
    assert found >= 90


def test_a_canary_that_always_fails_is_found_within_seconds() -> None:
    blocks = [Block(Counts(2, 2), Counts(0, 38))] * 4
    assert evidence(blocks, tolerance=0.002, seed=1) >= math.log(600)


def test_a_canary_that_does_better_is_no_harm() -> None:
    blocks = [Block(Counts(0, 5), Counts(20, 38))] * 200
    assert evidence(blocks, tolerance=0.0, seed=1) == 0.0


def test_evidence_never_falls_as_blocks_come_in() -> None:
    run = drawn(np.random.default_rng(3), 0.1, 0.1)
    found = [evidence(run[:n], tolerance=0.05, seed=9) for n in range(0, BLOCKS, 10)]
    assert found == sorted(found)


def test_blocks_are_joined_until_both_have_outcomes() -> None:
    one, other = Counts(1, 2), Counts(0, 3)
    blocks = [Block(NONE, other), Block(one, NONE), Block(NONE, other), Block(one, other)]
    assert side_by_side([*blocks, Block(one, NONE)]) == [
        Block(one, other),
        Block(one, Counts(0, 6)),
    ]
    assert evidence([], tolerance=0.1, seed=1) == 0.0
