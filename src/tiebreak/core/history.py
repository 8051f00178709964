"""History features as running totals over knowledge time.

What was known about an entity is a log in `as_of` order; each row carries running totals, one a
*slot*. A window is two probes: the totals just before `t` minus those just before `t - w`. The
arithmetic stands here once; a database or a `MemoryLog` only looks totals up.

All values are int64. A `sum` slot starts at 0 and grows by checked additions; a `last` slot holds
the newest value and starts EMPTY.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numba
import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.expressions import Expression, Scope, Symbol, Type, compile_expression
from tiebreak.core.workflow import Entity, EventKind, Field, FieldType, HistoryFeature, Workflow
from tiebreak.errors import InvalidInput

SMALLEST, LARGEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
EMPTY = SMALLEST
MICROSECONDS_A_DAY = 86_400_000_000
KEY_SEPARATOR = "\x1f"

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class HistoryOverflow(InvalidInput):
    """A running total does not fit in 64 bits."""

    code = "history_overflow"


@dataclass(frozen=True, slots=True)
class Slot:
    """One running total kept for every entity of a kind."""

    entity: str
    on: EventKind
    how: Literal["sum", "last"]
    value: str  # "1" counts events, "known_at" is the time of the event, else an expression
    where: str | None
    scale: int
    counts: Literal["first", "current"]

    @property
    def id(self) -> str:
        """A stable readable id; slots of the same definition share it, and so their totals."""
        return _slot_id(self)


@cache
def _slot_id(slot: Slot) -> str:
    definition = orjson.dumps([slot.value, slot.where, slot.scale])
    digest = hashlib.sha256(definition).hexdigest()[:8]
    return f"{slot.entity}.{slot.on.value}.{slot.how}.{slot.counts}.{digest}"


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


def symbols_of(fields: tuple[Field, ...]) -> dict[str, Symbol]:
    """The fields as symbols of an expression scope, after-the-fact fields marked."""
    return {
        field.name: Symbol(
            type=SYMBOL_TYPES[field.type],
            values=field.values,
            minimum=field.minimum,
            maximum=field.maximum,
            after=field.after,
        )
        for field in fields
    }


KEY_TYPES = frozenset({Type.TEXT, Type.INTEGER, Type.BOOLEAN, Type.DATE})
SYMBOL_TYPES = {
    FieldType.TEXT: Type.TEXT,
    FieldType.CATEGORY: Type.TEXT,
    FieldType.INTEGER: Type.INTEGER,
    FieldType.NUMBER: Type.NUMBER,
    FieldType.BOOLEAN: Type.BOOLEAN,
    FieldType.TIMESTAMP: Type.TIMESTAMP,
    FieldType.DATE: Type.DATE,
    FieldType.TAGS: Type.TAGS,
}


def ticket_scope(workflow: Workflow) -> Scope:
    """What an expression about a ticket may read: its fields and `as_of`."""
    symbols = symbols_of(workflow.fields) | {"as_of": Symbol(Type.TIMESTAMP)}
    return Scope(symbols, workflow.calendar)


def event_scope(workflow: Workflow, on: EventKind) -> Scope:
    """What an expression about an event may read: the ticket's and, later, outcome fields."""
    symbols = symbols_of(workflow.fields)
    if on is not EventKind.ARRIVED:
        known = tuple(f.model_copy(update={"after": False}) for f in workflow.outcome_fields)
        symbols |= symbols_of(known)
    return Scope(symbols, workflow.calendar)


def entity_key(workflow: Workflow, entity: Entity) -> list[Expression]:
    """The expressions that identify an entity. Raises `ExpressionError`."""
    scope = event_scope(workflow, EventKind.ARRIVED)
    return [compile_expression(sql, scope, expect=KEY_TYPES) for sql in entity.key]


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


@dataclass(frozen=True, slots=True)
class _Measure:
    where: Expression | None
    value: Expression | None


class HistoryPlan:
    """What history a workflow keeps: slots by entity, the probes a ticket needs, its context.

    Raises `ExpressionError` when an expression of a history feature is mistaken.
    """

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.readings = readings_of(workflow)
        by_entity: dict[str, dict[str, Slot]] = {entity.name: {} for entity in workflow.entities}
        for reading in self.readings:
            for slot in reading.slots:
                by_entity[slot.entity].setdefault(slot.id, slot)
        self.slots = {name: tuple(slots.values()) for name, slots in by_entity.items() if slots}
        self._keys = {
            entity.name: [key.value.cast(pl.String) for key in entity_key(workflow, entity)]
            for entity in workflow.entities
            if entity.name in self.slots
        }
        self.probes = self._probes()
        self._measures = {
            slot.id: self._measure(slot) for slots in self.slots.values() for slot in slots
        }
        positions = {slot.id: i for slots in self.slots.values() for i, slot in enumerate(slots)}
        cut = {
            column: (column, slot, positions[slot.id], reading.window_us)
            for reading in self.readings
            for slot, column in zip(reading.slots, reading.columns, strict=True)
        }
        self._context = tuple(cut.values())
        self.context_columns = tuple(cut)

    def _probes(self) -> tuple[Probe, ...]:
        windows = {(r.feature.entity, r.window_us) for r in self.readings if r.window_us}
        now = [Probe(entity, None) for entity in self.slots]
        return (*now, *(Probe(e, w) for e, w in sorted(windows, key=str)))

    def _measure(self, slot: Slot) -> _Measure:
        scope = event_scope(self.workflow, slot.on)
        where = slot.where and compile_expression(
            slot.where, scope, expect=frozenset({Type.BOOLEAN})
        )
        value = None
        if slot.value not in ("1", "known_at"):
            numeric = frozenset({Type.INTEGER, Type.NUMBER, Type.BOOLEAN})
            value = compile_expression(slot.value, scope, expect=numeric)
        return _Measure(where or None, value)

    def entity_texts(self, tickets: pl.DataFrame) -> dict[str, list[str | None]]:
        """The text that identifies each entity of each ticket; None where the ticket has none."""
        return {
            name: _column(tickets, pl.concat_str(key, separator=KEY_SEPARATOR)).to_list()
            for name, key in self._keys.items()
        }

    def deltas(
        self, on: EventKind, events: pl.DataFrame, known_at: Ints, is_first: Flags
    ) -> dict[str, Ints]:
        """What each event of one kind adds to the slots of its entities.

        `events` holds the ticket's fields (and outcome fields), `known_at` microseconds UTC.
        Returns (n, slots) an entity: the addend of a `sum` slot, the new value of a `last` slot
        or EMPTY where it keeps its value. Raises `HistoryOverflow`.
        """
        return {
            name: np.column_stack(
                [self._delta(slot, on, events, known_at, is_first) for slot in slots]
            ).astype(np.int64)
            for name, slots in self.slots.items()
        }

    def _delta(
        self, slot: Slot, on: EventKind, events: pl.DataFrame, known_at: Ints, is_first: Flags
    ) -> Ints:
        nothing = 0 if slot.how == "sum" else EMPTY
        if slot.on is not on:
            return np.full(events.height, nothing, dtype=np.int64)
        measure = self._measures[slot.id]
        applies = is_first if slot.counts == "first" else np.ones(events.height, dtype=np.bool_)
        if measure.where is not None:
            holds = _column(events, measure.where.value).fill_null(value=False)
            applies = applies & holds.to_numpy()
        if slot.value == "1":
            value = np.ones(events.height, dtype=np.int64)
        elif slot.value == "known_at":
            value = known_at
        else:
            assert measure.value is not None
            value, is_known = _fixed_point(_column(events, measure.value.value), slot.scale)
            applies = applies & is_known
        return np.where(applies, value, nothing)

    def context_values(
        self, totals: Mapping[Probe, tuple[Ints, Flags]]
    ) -> dict[str, tuple[Ints, Flags]]:
        """Every context column's values and where they are known, shape (n,) each.

        `totals` holds for every probe the totals found, (n, slots of the entity), and whether the
        ticket has the entity at all.
        """
        columns: dict[str, tuple[Ints, Flags]] = {}
        for column, slot, position, window_us in self._context:
            totals_now, is_known = totals[Probe(slot.entity, None)]
            value = totals_now[:, position]
            if slot.how == "last":
                is_known = is_known & (value != EMPTY)
            elif window_us is not None:
                value = value - totals[Probe(slot.entity, window_us)][0][:, position]
            columns[column] = (value, is_known)
        return columns

    def context(self, as_of: Ints, totals: Mapping[Probe, tuple[Ints, Flags]]) -> pl.DataFrame:
        """The context columns, Int64, null where a ticket lacks the entity or nothing is known.

        `totals` as in `context_values`; `as_of` is int64 microseconds of shape (n,).
        """
        columns = {
            name: _nullable(value, is_known)
            for name, (value, is_known) in self.context_values(totals).items()
        }
        return pl.DataFrame(columns) if columns else pl.DataFrame({"_": as_of}).select()

    def feature_columns(self) -> list[pl.Expr]:
        """Every history feature as an expression over context columns and `as_of`."""
        return [_feature(reading).alias(reading.feature.name) for reading in self.readings]

    def feature_symbols(self) -> dict[str, Symbol]:
        """Every history feature as a symbol for rules."""
        return {r.feature.name: Symbol(_feature_type(r.feature)) for r in self.readings}


def _feature_type(feature: HistoryFeature) -> Type:
    whole = feature.aggregate in ("count", "open") or (
        feature.aggregate in ("sum", "last") and feature.scale == 1
    )
    return Type.INTEGER if whole else Type.NUMBER


def _feature(reading: Reading) -> pl.Expr:
    feature = reading.feature
    first, *rest = (pl.col(column) for column in reading.columns)
    match feature.aggregate:
        case "count":
            return first
        case "sum" | "last":
            return first if feature.scale == 1 else first / feature.scale
        case "mean":
            total = first if feature.scale == 1 else first / feature.scale
            return pl.when(rest[0] > 0).then(total / rest[0])
        case "rate":
            return pl.when(rest[0] > 0).then(first / rest[0])
        case "time_since":
            since = pl.col("as_of").dt.epoch("us") - first
            limit = reading.window_us
            seconds = since / 1_000_000
            return seconds if limit is None else pl.when(since <= limit).then(seconds)
        case "open":
            return pl.when(first >= rest[0]).then(first - rest[0]).otherwise(first * 0)


def _column(frame: pl.DataFrame, expression: pl.Expr) -> pl.Series:
    """The expression as a column as long as the frame, constants too."""
    series = frame.select(expression.alias("value")).to_series()
    return series if series.len() == frame.height else series.new_from_index(0, frame.height)


def _nullable(value: Ints, is_known: Flags) -> pl.Series:
    series = pl.Series(value, dtype=pl.Int64)
    if is_known.all():
        return series
    return series.set(pl.Series(~is_known), None)


def _fixed_point(value: pl.Series, scale: int) -> tuple[Ints, Flags]:
    """Value x scale as int64, halves to even, and where it is known; HistoryOverflow."""
    is_known = value.is_not_null().to_numpy()
    if value.dtype == pl.Boolean:
        value = value.cast(pl.Int64)
    if value.dtype == pl.Int64:
        exact = value.fill_null(0).to_numpy()
        if scale != 1 and exact.size and np.abs(exact.astype(np.float64)).max() * scale >= 2**63:
            raise HistoryOverflow
        return exact * scale, is_known
    scaled = np.rint(value.fill_null(0.0).to_numpy() * scale)
    if scaled.size and not (np.abs(scaled) < 2.0**63).all():
        raise HistoryOverflow
    return scaled.astype(np.int64), is_known


def initial(slots: tuple[Slot, ...]) -> Ints:
    """The totals of an entity about which nothing is known, shape (slots,)."""
    return np.array([0 if slot.how == "sum" else EMPTY for slot in slots], dtype=np.int64)


def accumulate(start: Ints, entity: Ints, deltas: Ints, slots: tuple[Slot, ...]) -> Ints:
    """Running totals after each event, in the given order.

    `start` (entities, slots) holds the totals each entity begins with, `entity` (n,) the row of
    `start` of each event, `deltas` (n, slots) what it adds. Returns (n, slots).
    Raises `HistoryOverflow` when a sum leaves 64 bits.
    """
    is_last = np.array([slot.how == "last" for slot in slots], dtype=np.bool_)
    totals, overflowed = _accumulate(start.copy(), entity, deltas, is_last)
    if overflowed:
        raise HistoryOverflow
    return totals


@numba.njit(cache=True, nogil=True)
def _accumulate(  # pragma: no cover - compiled
    current: Ints, entity: Ints, deltas: Ints, is_last: Flags
) -> tuple[Ints, bool]:
    totals = np.empty_like(deltas)
    for row in range(deltas.shape[0]):
        owner = entity[row]
        for slot in range(deltas.shape[1]):
            delta = deltas[row, slot]
            before = current[owner, slot]
            if is_last[slot]:
                after = before if delta == EMPTY else delta
            else:
                # Asked before adding: compiled code may assume that a sum never wraps.
                if before > LARGEST - delta if delta > 0 else before < SMALLEST - delta:
                    return totals, True
                after = before + delta
            current[owner, slot] = after
            totals[row, slot] = after
    return totals, False


class EntityLog:
    """The log of one kind of entity in memory, probed by binary search.

    Rows may come in any order of entities but must be in time order within an entity; of rows
    with equal entity and time the last one counts. `codes` number the entities from 0.
    """

    def __init__(self, slots: tuple[Slot, ...], codes: Ints, known_at: Ints, totals: Ints) -> None:
        order = np.argsort(codes, kind="stable")
        self._known_at = known_at[order]
        self._totals = np.vstack([totals[order], initial(slots)])
        entities = int(codes.max()) + 1 if codes.size else 0
        self._starts = np.searchsorted(codes[order], np.arange(entities + 1))

    def probe(self, codes: Ints, before: Ints) -> Ints:
        """The totals of each entity just before each time, (n, slots); code -1 is unknown."""
        return self._totals[_newest_before(self._starts, self._known_at, codes, before)]


@numba.njit(cache=True, nogil=True)
def _newest_before(  # pragma: no cover - compiled
    starts: Ints, known_at: Ints, codes: Ints, before: Ints
) -> Ints:
    rows = np.empty(codes.shape[0], dtype=np.int64)
    for i in range(codes.shape[0]):
        code = codes[i]
        if code < 0 or code + 1 >= starts.shape[0]:
            rows[i] = known_at.shape[0]
            continue
        low, high = starts[code], starts[code + 1]
        first = low
        while low < high:
            middle = (low + high) // 2
            if known_at[middle] < before[i]:
                low = middle + 1
            else:
                high = middle
        rows[i] = low - 1 if low > first else known_at.shape[0]
    return rows
