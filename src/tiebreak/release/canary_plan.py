"""The plan of a canary: which shares it goes through, and how much worse it may do.

The steps are those of the workflow (`core.release_plan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """A share of the tickets, and what must have passed before the next."""

    percent: int
    at_least: timedelta
    tickets: int  # decided by the canary in this step


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How much a canary's rate may lie above production's p: up to p + t (1 - p)."""

    errors: float = 0.002  # expressions that failed, or production stood in
    model_failures: float = 0.002  # decided without the model
    slow: float = 0.01  # decided later than `slow_seconds` after admission
    more_high: float = 0.05  # bands high and critical
    less_high: float = 0.05  # bands low and medium
    missed: float = 0.05  # of tickets that ended badly: neither high nor reviewed


@dataclass(frozen=True, slots=True)
class CanaryPlan:
    """How a canary is stepped and watched; `alpha` is the chance of any false alarm, ever."""

    steps: tuple[CanaryStep, ...]
    alpha: float = 0.01
    tolerances: Tolerances = Tolerances()
    slow_seconds: float = 0.5

    def step_of(self, percent: int) -> int:
        """The number of the step at or before this share, from 0; -1 before the first."""
        return sum(step.percent <= percent for step in self.steps) - 1

    def following(self, percent: int) -> int | None:
        """The share of the step after this share; None after the last."""
        later = self.steps[self.step_of(percent) + 1 :]
        return later[0].percent if later else None
