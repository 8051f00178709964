"""The history a workflow keeps and what a ticket is given of it, its context.

The arithmetic stands here and in `totals` once; a database or a log in memory only looks totals
up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from tiebreak.core.expressions import Symbol, Type, compile_expression
from tiebreak.core.readings import Probe, feature_column, feature_type, readings_of
from tiebreak.core.scopes import entity_key, event_scope
from tiebreak.core.totals import EMPTY, Flags, HistoryOverflow, Ints, Slot
from tiebreak.core.workflow import EventKind, Workflow

KEY_SEPARATOR = "\x1f"


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
            entity.name: pl.concat_str(
                [key.value.cast(pl.String) for key in entity_key(workflow, entity)],
                separator=KEY_SEPARATOR,
            )
            for entity in workflow.entities
            if entity.name in self.slots
        }
        self.probes = self._probes()
        self._measures = {kind: self._measured_by(kind) for kind in EventKind}
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

    def _measured_by(self, on: EventKind) -> dict[str, pl.Expr]:
        """What has to be evaluated of an event of this kind, for all slots at once."""
        scope, found = event_scope(self.workflow, on), dict[str, pl.Expr]()
        numeric = frozenset({Type.INTEGER, Type.NUMBER, Type.BOOLEAN})
        for slot in (slot for slots in self.slots.values() for slot in slots if slot.on is on):
            if slot.where is not None:
                condition = compile_expression(slot.where, scope, expect=frozenset({Type.BOOLEAN}))
                found[_where(slot)] = condition.value.fill_null(value=False)
            if slot.value not in ("1", "known_at"):
                found[_value(slot)] = compile_expression(slot.value, scope, expect=numeric).value
        return found

    def entity_texts(self, tickets: pl.DataFrame) -> dict[str, list[str | None]]:
        """The text that identifies each entity of each ticket; None where the ticket has none."""
        return {name: column.to_list() for name, column in _columns(tickets, self._keys).items()}

    def deltas(
        self, on: EventKind, events: pl.DataFrame, known_at: Ints, is_first: Flags
    ) -> dict[str, Ints]:
        """What each event of one kind adds to the slots of its entities.

        `events` holds the ticket's fields (and outcome fields), `known_at` microseconds UTC.
        Returns (n, slots) an entity: the addend of a `sum` slot, the new value of a `last` slot
        or EMPTY where it keeps its value. Raises `HistoryOverflow`.
        """
        measured = _columns(events, self._measures[on])
        deltas: dict[str, Ints] = {}
        for name, slots in self.slots.items():
            deltas[name] = np.empty((events.height, len(slots)), dtype=np.int64)
            for position, slot in enumerate(slots):
                nothing = 0 if slot.how == "sum" else EMPTY
                deltas[name][:, position] = nothing
                if slot.on is on:
                    value, applies = _measured(slot, measured, known_at)
                    applies = applies & is_first if slot.counts == "first" else applies
                    np.copyto(deltas[name][:, position], value, where=applies)
        return deltas

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
        return context_frame(self.context_values(totals), len(as_of))

    def feature_columns(self) -> list[pl.Expr]:
        """Every history feature as an expression over context columns and `as_of`."""
        return [feature_column(reading).alias(reading.feature.name) for reading in self.readings]

    def feature_symbols(self) -> dict[str, Symbol]:
        """Every history feature as a symbol for rules."""
        return {r.feature.name: Symbol(feature_type(r.feature)) for r in self.readings}


def context_frame(values: Mapping[str, tuple[Ints, Flags]], height: int) -> pl.DataFrame:
    """Context values as Int64 columns, null where they are not known."""
    if not values:
        return pl.DataFrame(height=height)
    # One column that holds all of them, end to end, is much faster to make than one for each.
    flat = pl.Series(np.concatenate([value for value, _ in values.values()]), dtype=pl.Int64)
    is_known = np.concatenate([flags for _, flags in values.values()])
    if not is_known.all():
        flat = flat.set(pl.Series(~is_known), None)
    return pl.DataFrame(
        [flat.slice(i * height, height).alias(name) for i, name in enumerate(values)]
    )


def _columns(frame: pl.DataFrame, expressions: Mapping[str, pl.Expr]) -> dict[str, pl.Series]:
    """The expressions as columns as long as the frame, constants too."""
    found = frame.select(e.alias(name) for name, e in expressions.items()).get_columns()
    height = frame.height
    return {
        s.name: s if s.len() == height else s.new_from_index(0, height).alias(s.name) for s in found
    }


def _measured(slot: Slot, measured: Mapping[str, pl.Series], known_at: Ints) -> tuple[Ints, Flags]:
    """The value of each event for a slot, and whether the event counts there at all."""
    where = measured.get(_where(slot))
    applies = np.ones(known_at.shape, dtype=np.bool_)
    if where is not None:
        applies = where.to_numpy()
    if slot.value == "1":
        return np.ones(known_at.shape, dtype=np.int64), applies
    if slot.value == "known_at":
        return known_at, applies
    value, is_known = _fixed_point(measured[_value(slot)], slot.scale)
    return value, applies & is_known


def _is_known(value: pl.Series) -> Flags:
    if not value.null_count():  # asking each row is a query
        return np.ones(len(value), dtype=np.bool_)
    return value.is_not_null().to_numpy()


def _where(slot: Slot) -> str:
    return f"{slot.id} where"


def _value(slot: Slot) -> str:
    return f"{slot.id} value"


def _fixed_point(value: pl.Series, scale: int) -> tuple[Ints, Flags]:
    """Value x scale as int64, halves to even, and where it is known; HistoryOverflow."""
    is_known = _is_known(value)
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
