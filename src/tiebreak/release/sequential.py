"""Sequential tests: whether a canary does worse than production, looked at as often as one likes.

Outcomes of both, yes or no, come in blocks that were decided side by side. The evidence of a block
is an e-variable for two samples (Turner, Ly, Grünwald, "Generic E-variables for exact sequential
k-sample tests that allow for optional stopping", 2024, https://arxiv.org/abs/2106.02693):

    S = prod_a p(y; a*) / p(y; m)  ·  prod_b p(y; b*) / p(y; m)
    m = (n_a a* + n_b b*) / (n_a + n_b)

with p(y; q) = q^y (1-q)^(1-y), and a* > b* guessed from the blocks before. With f(q) the mean of
p(y; q) / p(y; m) when y is yes at a true rate t, f is linear and f(m) = 1, so the mean of S, which
is f(a*)^n_a f(b*)^n_b, is at most 1 whatever t is (arithmetic and geometric mean); it is smaller
still when the canary's true rate is below production's. So the product over blocks is a test
martingale also when the common rate drifts from block to block, and by Ville's inequality it ever
reaches 1/alpha with a chance of at most alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PRIOR_YES, PRIOR_ALL = 0.5, 1.0  # of the guesses, so that none of them is 0 or 1


@dataclass(frozen=True, slots=True)
class Counts:
    """How many of n outcomes were yes."""

    yes: int
    n: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.yes + other.yes, self.n + other.n)

    @property
    def rate(self) -> float | None:
        """The share; None of nothing."""
        return self.yes / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class Block:
    """Outcomes of both in the same time."""

    canary: Counts
    production: Counts


NONE = Counts(0, 0)


def evidence(blocks: Sequence[Block], *, tolerance: float, seed: int) -> float:
    """How much speaks for a canary's rate above production's: the largest log e-value so far.

    `tolerance` t, 0 to 1, lets the canary's rate be up to p + t (1 - p) where production's is p:
    each no of production counts as a yes with the chance t, drawn by `seed`, the same at each
    call. Blocks in which either has no outcome say nothing. 0 without blocks, never below.
    """
    chance = np.random.default_rng(seed)
    canary, production = NONE, NONE
    value = largest = 0.0
    for block in blocks:
        b = block.production
        raised = Counts(b.yes + int(chance.binomial(b.n - b.yes, tolerance)), b.n)
        value += _log_of(block.canary, raised, _guess(canary), _guess(production))
        largest = max(largest, value)
        canary, production = canary + block.canary, production + raised
    return largest


def side_by_side(blocks: Sequence[Block]) -> list[Block]:
    """The blocks with neighbours joined until both have outcomes; what is left over is left out."""
    joined: list[Block] = []
    canary, production = NONE, NONE
    for block in blocks:
        canary, production = canary + block.canary, production + block.production
        if canary.n and production.n:
            joined.append(Block(canary, production))
            canary, production = NONE, NONE
    return joined


def _guess(counts: Counts) -> float:
    return (counts.yes + PRIOR_YES) / (counts.n + PRIOR_ALL)


def _log_of(canary: Counts, production: Counts, a: float, b: float) -> float:
    if a <= b or not canary.n or not production.n:
        return 0.0
    m = (canary.n * a + production.n * b) / (canary.n + production.n)
    return _log_ratio(canary, a, m) + _log_ratio(production, b, m)


def _log_ratio(counts: Counts, q: float, m: float) -> float:
    return counts.yes * float(np.log(q / m)) + (counts.n - counts.yes) * float(
        np.log((1 - q) / (1 - m))
    )
