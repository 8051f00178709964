"""How a candidate comes into production: the gates' limits, canary steps, capacity and costs.

A gate that is None is left out. What can do harm at once (hard floors, signatures, evidence of
another policy) is not listed here, because nobody may leave it out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic import Field as Constraint

MOST_APPROVAL_HOURS = 744  # 31 days, the database's limit
MOST_CANARY_PERCENT = 50  # the database's limit too; beyond, it is a switch to the candidate


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VolumeLimits(_Frozen):
    """How much a candidate must have scored beside today's production."""

    tickets: int = Constraint(default=1_000, ge=1)
    days: float = Constraint(default=7, ge=0)  # from the first scored `as_of` to the last


class LabelLimits(_Frozen):
    """How many scored tickets must have a mature label."""

    count: int = Constraint(default=200, ge=2)
    positives: int = Constraint(default=20, ge=1)


class MarginLimits(_Frozen):
    """By how much a figure may be worse than production's, with 95% confidence."""

    margin: float = Constraint(default=0.03, gt=0, le=1)


class CalibrationLimits(_Frozen):
    """How far scores may lie from what became of the tickets, on average."""

    error: float = Constraint(default=0.05, gt=0, le=1)


class SliceLimits(_Frozen):
    """By how much AUC may fall within a slice; slices with fewer labels are not judged."""

    margin: float = Constraint(default=0.05, gt=0, le=1)
    labels: int = Constraint(default=50, ge=2)
    positives: int = Constraint(default=10, ge=1)


class LeakageLimits(_Frozen):
    """How much may be missing, and AUC fall, on live tickets beside what it was trained on."""

    missing: float = Constraint(default=0.2, gt=0, le=1)  # rise of a feature's missing share
    drop: float = Constraint(default=0.1, gt=0, le=1)  # of AUC, from the validation tickets


class ShiftLimits(_Frozen):
    """How far live scores may lie from those of the validation tickets."""

    psi: float = Constraint(default=0.25, gt=0)


class FlipLimits(_Frozen):
    """Which share of tickets may change its band, and which may fall below high."""

    share: float = Constraint(default=0.15, ge=0, le=1)
    lowered: float = Constraint(default=0.02, ge=0, le=1)


class ReviewedFlipLimits(_Frozen):
    """How many flips people must have judged, and which share of those for the candidate."""

    count: int = Constraint(default=0, ge=0)
    agreeing: float = Constraint(default=0.5, ge=0, le=1)


class LatencyLimits(_Frozen):
    """How slow deciding may be: seconds a ticket in shadow, and times production's."""

    seconds: float = Constraint(default=0.1, gt=0)
    times: float = Constraint(default=5.0, gt=0)


class ErrorLimits(_Frozen):
    """Which share of the tickets the candidate may leave without its score."""

    share: float = Constraint(default=0.001, ge=0, le=1)


class ReplayLimits(_Frozen):
    """How many shadow scores and decisions are made again and compared bit for bit."""

    sample: int = Constraint(default=1_000, ge=20, le=100_000)


class BacktestLimits(_Frozen):
    """What the backtest must cover, and by which share its figures may rise over production's."""

    tickets: int = Constraint(default=1_000, ge=1)
    days: float = Constraint(default=30, ge=0)
    flips: float = Constraint(default=0.2, ge=0, le=1)  # share of the tickets
    missed: float = Constraint(default=0.1, ge=0)
    needless: float = Constraint(default=0.25, ge=0)
    hours: float = Constraint(default=0.25, ge=0)  # of reviewers
    cost: float = Constraint(default=0.1, ge=0)  # of missed and needless together


class Gates(_Frozen):
    """The gates of a workflow with their limits; None leaves one out."""

    volume: VolumeLimits | None = VolumeLimits()
    labels: LabelLimits | None = LabelLimits()
    errors: ErrorLimits | None = ErrorLimits()
    pr_auc: MarginLimits | None = MarginLimits()
    auc: MarginLimits | None = MarginLimits(margin=0.02)
    recall: MarginLimits | None = MarginLimits()
    calibration: CalibrationLimits | None = CalibrationLimits()
    slices: SliceLimits | None = SliceLimits()
    leakage: LeakageLimits | None = LeakageLimits()
    shift: ShiftLimits | None = ShiftLimits()
    flips: FlipLimits | None = FlipLimits()
    reviewed_flips: ReviewedFlipLimits | None = ReviewedFlipLimits()
    latency: LatencyLimits | None = LatencyLimits()
    backtest: BacktestLimits | None = BacktestLimits()
    replay: ReplayLimits = ReplayLimits()


class CanaryStep(_Frozen):
    """A share of the tickets that the candidate decides for at least so long and so many."""

    percent: int = Constraint(ge=1, le=100)
    hours: float = Constraint(ge=0)
    tickets: int = Constraint(ge=0)


class ReleasePlan(_Frozen):
    """How a candidate of the workflow comes into production."""

    canary: Literal["required", "optional"] = "optional"
    canary_steps: tuple[CanaryStep, ...] = Constraint(
        default=(
            CanaryStep(percent=5, hours=24, tickets=100),
            CanaryStep(percent=25, hours=24, tickets=500),
            CanaryStep(percent=50, hours=24, tickets=1_000),
        ),
        min_length=1,
    )
    reviews_per_day: float | None = Constraint(default=None, gt=0)  # None: as many as now
    approval_hours: float = Constraint(default=24, gt=0, le=MOST_APPROVAL_HOURS)
    missed_cost: float | None = Constraint(default=None, ge=0)  # of a bad end nobody looked at
    needless_cost: float | None = Constraint(default=None, ge=0)  # of a review of a good end
    gates: Gates = Gates()
