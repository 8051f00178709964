"""What history features read: slots of an entity, at two moments, and what they make of it.

A window is two probes: the totals just before `t` minus those just before `t - w`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from tiebreak.core.expressions import Type
from tiebreak.core.expressions.operands import quotient
from tiebreak.core.totals import Slot
from tiebreak.core.workflow import EventKind, HistoryFeature, Workflow

MICROSECONDS_A_SECOND = 1_000_000
MICROSECONDS_A_DAY = 86_400 * MICROSECONDS_A_SECOND


@dataclass(frozen=True, slots=True)
class Probe:
    """A look at an entity's totals just before `as_of - window` (None: just before `as_of`)."""

    entity: str
    window_us: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a history feature reads: its slots and whether they are cut to a window."""

    feature: HistoryFeature
    slots: tuple[Slot, ...]
    window_us: int | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The context columns of the feature, one a slot."""
        return tuple(context_column(slot, self.window_us) for slot in self.slots)


def context_column(slot: Slot, window_us: int | None) -> str:
    """The context column of a slot in a window; `last` slots are never cut."""
    if window_us is None or slot.how == "last":
        return f"{slot.id}@all"
    return f"{slot.id}@{window_us / MICROSECONDS_A_DAY:g}d"


def readings_of(workflow: Workflow) -> tuple[Reading, ...]:
    """Every history feature of the workflow with the slots it reads."""
    return tuple(
        _reading(feature) for feature in workflow.features if isinstance(feature, HistoryFeature)
    )


def _reading(feature: HistoryFeature) -> Reading:
    def slot(
        how: Literal["sum", "last"],
        value: str,
        where: str | None,
        scale: int = 1,
        on: EventKind = feature.on,
    ) -> Slot:
        return Slot(feature.entity, on, how, value, where, scale, feature.counts)

    where, value = feature.where, feature.value or "1"
    match feature.aggregate:
        case "count":
            slots = (slot("sum", "1", where),)
        case "sum":
            slots = (slot("sum", value, where, feature.scale),)
        case "mean":
            counted = f"({value}) IS NOT NULL"
            both = counted if where is None else f"({where}) AND {counted}"
            slots = (slot("sum", value, where, feature.scale), slot("sum", "1", both))
        case "rate":
            among = feature.among
            hits = where if among is None else f"({among}) AND ({where or 'TRUE'})"
            slots = (slot("sum", "1", hits), slot("sum", "1", among))
        case "time_since":
            slots = (slot("last", "known_at", where),)
        case "last":
            slots = (slot("last", value, where, feature.scale),)
        case "open":
            slots = (
                slot("sum", "1", where, on=EventKind.ARRIVED),
                slot("sum", "1", where, on=EventKind.CLOSED),
            )
    days = feature.window_days
    window = None if days is None else round(days * MICROSECONDS_A_DAY)
    return Reading(feature, slots, window)


def feature_type(feature: HistoryFeature) -> Type:
    """The type a history feature has in rules."""
    whole = feature.aggregate in ("count", "open") or (
        feature.aggregate in ("sum", "last") and feature.scale == 1
    )
    return Type.INTEGER if whole else Type.NUMBER


def feature_column(reading: Reading) -> pl.Expr:
    """The feature as an expression over its context columns and `as_of`."""
    feature = reading.feature
    first, *rest = (pl.col(column) for column in reading.columns)
    match feature.aggregate:
        case "count":
            return first
        case "sum" | "last":
            return first if feature.scale == 1 else _ratio(first, pl.lit(feature.scale))
        case "mean":
            total = first if feature.scale == 1 else _ratio(first, pl.lit(feature.scale))
            return pl.when(rest[0] > 0).then(_ratio(total, rest[0]))
        case "rate":
            return pl.when(rest[0] > 0).then(_ratio(first, rest[0]))
        case "time_since":
            since = pl.col("as_of").cast(pl.Int64) - first
            limit = reading.window_us
            seconds = _ratio(since, pl.lit(MICROSECONDS_A_SECOND))
            return seconds if limit is None else pl.when(since <= limit).then(seconds)
        case "open":
            return pl.when(first >= rest[0]).then(first - rest[0]).otherwise(first * 0)


def _ratio(dividend: pl.Expr, divisor: pl.Expr) -> pl.Expr:
    return quotient(dividend.cast(pl.Float64), divisor.cast(pl.Float64))
