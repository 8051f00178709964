"""What a gate says of a candidate, and all that gates look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.policy import Policy
from tiebreak.core.release_plan import ReleasePlan
from tiebreak.release.gate_columns import Scored
from tiebreak.release.gate_statistics import Compared
from tiebreak.release.states import Stage


class Verdict(StrEnum):
    """What a gate says; all but `pass` block."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    NO_EVIDENCE = "no evidence"


@dataclass(frozen=True, slots=True)
class Result:
    """One gate's word: a figure beside its limit, a sentence, and what to do when it blocks."""

    gate: str
    verdict: Verdict
    figure: float | None
    limit: float | None
    sentence: str
    hint: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_data(self) -> dict[str, Any]:
        """The result as plain data."""
        return {**asdict(self), "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which tickets that production decided while the candidate was in shadow it left out."""

    since: datetime | None
    through: datetime | None
    unscored: int | None  # of those that its share selects; None: nothing is compared yet
    share: float  # of the tickets that the candidate is to score
    quarantine: str | None  # why it is in quarantine
    earlier: Sequence[str] = ()  # why it was in quarantine before its shadow was started again


@dataclass(frozen=True, slots=True)
class Again:
    """Shadow scores or decisions made again: how many, and which differ."""

    compared: int
    different: int
    elsewhere: int  # made by another engine, and equal within its tolerance
    seconds: float | None  # a ticket, deciding them again
    problem: str = ""
    erased: int = 0  # drawn, but gone since


@dataclass(frozen=True, slots=True)
class Missing:
    """The share of tickets that miss each feature of the model, live and imported."""

    live: Mapping[str, float]
    imported: Mapping[str, float]
    live_count: int
    imported_count: int


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """What happened since the canary's last begin: its state, its decisions."""

    is_finished: bool
    decided: int
    failed: int  # without the model's score
    below_floor: int
    early: tuple[str, ...] = ()  # why its share grew before a step was over


@dataclass(frozen=True, eq=False)
class Gathered:
    """All that the gates look at."""

    stage: Stage
    plan: ReleasePlan
    seed: int
    scored: Scored
    slices: Mapping[str, Mapping[str, NDArray[np.int64]]]
    coverage: Coverage
    candidate: Policy
    model_problem: str  # why the signed model does not load; empty: it does
    production: Policy | None
    base_seq: int
    production_seq: int
    scores_again: Again
    decisions_again: Again
    missing: Missing | None
    backtest: Mapping[str, Any] | None
    backtest_problem: str
    canary: CanaryRun | None
    reviewed: tuple[int, int]  # flips that people judged, and those they judged for the candidate
    label_problem: str  # why no ticket has a label; empty: those that have one have it
    compared: Compared | None  # None: too little to compare
    ranking: tuple[NDArray[np.float64], NDArray[np.float64]]  # candidate's and production's
    usable: NDArray[np.bool_]  # tickets with both, and a label


def passed(results: Sequence[Result]) -> bool:
    """Whether no gate blocks."""
    return all(result.verdict is Verdict.PASS for result in results)
