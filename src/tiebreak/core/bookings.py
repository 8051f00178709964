"""Bookings: what events add to the slots of their entities.

A log may keep slots that several versions of a workflow define. Each version's slots are booked by
its own expressions, over its own fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import cast

import numpy as np
import polars as pl

from tiebreak.core.expressions import Expression, Type, compile_expression
from tiebreak.core.expressions.prepared import Prepared
from tiebreak.core.scopes import entity_key, event_scope
from tiebreak.core.tickets import COLUMN_TYPES
from tiebreak.core.totals import Flags, HistoryOverflow, Ints, Slot, initial
from tiebreak.core.workflow import EventKind, Workflow

KEY_SEPARATOR = "\x1f"

SlotsByEntity = Mapping[str, tuple[Slot, ...]]


class Strand:
    """Slots that one version of a workflow defines, and its expressions for them.

    Raises `ExpressionError` when an expression is mistaken.
    """

    def __init__(self, workflow: Workflow, slots: SlotsByEntity) -> None:
        self.workflow = workflow
        self.slots = {name: of_entity for name, of_entity in slots.items() if of_entity}
        self._keys = {
            entity.name: [_text(key) for key in entity_key(workflow, entity)]
            for entity in workflow.entities
            if entity.name in self.slots
        }
        self._nothing = {name: initial(of_entity) for name, of_entity in self.slots.items()}
        self._booked = {
            kind: [
                (name, position, slot)
                for name, of_entity in self.slots.items()
                for position, slot in enumerate(of_entity)
                if slot.on is kind
            ]
            for kind in EventKind
        }
        self._measures = {kind: self._measured_by(kind) for kind in EventKind}
        fields = (*workflow.outcome_fields, *(f for f in workflow.fields if not f.after))
        self._columns = {field.name: COLUMN_TYPES[field.type] for field in fields}
        self._ready: dict[EventKind, Prepared] = {}

    def only(self, ids: Collection[str]) -> Strand:
        """The strand of these of its slots alone."""
        return Strand(
            self.workflow,
            {
                entity: tuple(slot for slot in slots if slot.id in ids)
                for entity, slots in self.slots.items()
            },
        )

    def _measured_by(self, on: EventKind) -> dict[str, pl.Expr]:
        """What has to be evaluated of an event of this kind, for all slots at once."""
        scope, found = event_scope(self.workflow, on), dict[str, pl.Expr]()
        numeric = frozenset({Type.INTEGER, Type.NUMBER, Type.BOOLEAN})
        for _, _, slot in self._booked[on]:
            if slot.where is not None:
                condition = compile_expression(slot.where, scope, expect=frozenset({Type.BOOLEAN}))
                applies = condition.value.fill_null(value=False)
                found[_where(slot)] = applies.alias(_where(slot))
            if slot.value not in ("1", "known_at"):
                value = compile_expression(slot.value, scope, expect=numeric).value
                found[_value(slot)] = value.alias(_value(slot))
        return found

    def _prepared(self, on: EventKind) -> Prepared:
        """What is evaluated of an event of this kind, prepared when the first one comes."""
        if on not in self._ready:
            self._ready[on] = Prepared(list(self._measures[on].values()), self._columns)
        return self._ready[on]

    def field_names(self) -> frozenset[str]:
        """The fields of tickets and outcomes that the expressions read."""
        measures = (e for by_name in self._measures.values() for e in by_name.values())
        read = [*chain.from_iterable(self._keys.values()), *measures]
        return frozenset(name for expression in read for name in expression.meta.root_names())

    def fitted(self, frame: pl.DataFrame) -> pl.DataFrame:
        """A frame of another version's fields with all of this one's; null where it has none."""
        lacking = [
            pl.lit(None, dtype=kind).alias(name)
            for name, kind in self._columns.items()
            if frame.schema.get(name) != kind
        ]
        return frame.with_columns(lacking) if lacking else frame

    def entity_texts(self, tickets: pl.DataFrame) -> dict[str, list[str | None]]:
        """The text that identifies each entity of each ticket; None where the ticket has none."""
        return {name: _texts(_parts(tickets, keys)) for name, keys in self._keys.items()}

    def deltas(
        self, on: EventKind, events: pl.DataFrame, known_at: Ints, is_first: Flags
    ) -> dict[str, Ints]:
        """As `Bookings.deltas`, for the slots of this strand."""
        measured = _as_long(self._prepared(on).evaluate(events), events.height)
        deltas = {
            name: nothing[np.newaxis].repeat(events.height, axis=0)
            for name, nothing in self._nothing.items()
        }
        for name, position, slot in self._booked[on]:
            value, applies = _measured(slot, measured, known_at)
            if slot.counts == "first":
                applies = applies & is_first
            np.copyto(deltas[name][:, position], value, where=applies)
        return deltas


class Bookings:
    """Everything that is booked: the slots of one strand and what further strands add to them.

    Events come with the fields of the first strand's version. Slots of an entity stand in the
    order of the strands. No two strands may hold the same slot.
    """

    def __init__(self, first: Strand, *others: Strand) -> None:
        self._first, self._others = first, others
        entities = dict.fromkeys(name for strand in (first, *others) for name in strand.slots)
        self.slots: dict[str, tuple[Slot, ...]] = {
            name: tuple(s for strand in (first, *others) for s in strand.slots.get(name, ()))
            for name in entities
        }

    @property
    def strands(self) -> Sequence[Strand]:
        """The strands in their order."""
        return (self._first, *self._others)

    def entity_texts(self, tickets: pl.DataFrame) -> dict[str, list[str | None]]:
        """The text that identifies each entity of each ticket; None where the ticket has none."""
        texts = self._first.entity_texts(tickets)
        for strand in self._others:
            if not strand.slots.keys() <= texts.keys():
                texts = strand.entity_texts(strand.fitted(tickets)) | texts
        return {name: texts[name] for name in self.slots}

    def deltas(
        self, on: EventKind, events: pl.DataFrame, known_at: Ints, is_first: Flags
    ) -> dict[str, Ints]:
        """What each event of one kind adds to the slots of its entities.

        `events` holds the ticket's fields (and outcome fields), `known_at` microseconds UTC.
        Returns (n, slots) an entity: the addend of a `sum` slot, the new value of a `last` slot
        or EMPTY where it keeps its value. Raises `HistoryOverflow`.
        """
        found = [self._first.deltas(on, events, known_at, is_first)]
        if not self._others:
            return found[0]
        for strand in self._others:
            found.append(strand.deltas(on, strand.fitted(events), known_at, is_first))
        return {
            name: np.hstack([deltas[name] for deltas in found if name in deltas])
            for name in self.slots
        }


def _text(key: Expression) -> pl.Expr:
    return key.value if key.type is Type.TEXT else key.value.cast(pl.String)


def _parts(tickets: pl.DataFrame, keys: Sequence[pl.Expr]) -> list[list[str | None]]:
    """The parts of a key as columns of texts; what merely names a field is not worth a query."""
    if all(key.meta.is_column() for key in keys):
        return [tickets[key.meta.output_name()].to_list() for key in keys]
    named = [key.alias(str(i)) for i, key in enumerate(keys)]
    return [column.to_list() for column in _columns(tickets, named).values()]


def _texts(parts: list[list[str | None]]) -> list[str | None]:
    """The parts of a key in one text; None where one of them is missing."""
    if len(parts) == 1:
        return parts[0]
    return [
        None if None in row else KEY_SEPARATOR.join(cast("tuple[str, ...]", row))
        for row in zip(*parts, strict=True)
    ]


def _columns(frame: pl.DataFrame, expressions: Iterable[pl.Expr]) -> dict[str, pl.Series]:
    """The expressions as columns as long as the frame, constants too."""
    return _as_long(frame.select_seq(expressions).get_columns(), frame.height)


def _as_long(columns: Iterable[pl.Series], height: int) -> dict[str, pl.Series]:
    """Columns of this height; of what is one value, as constants are, that value each time."""
    return {
        s.name: s if s.len() == height else s.new_from_index(0, height).alias(s.name)
        for s in columns
    }


def _measured(
    slot: Slot, measured: Mapping[str, pl.Series], known_at: Ints
) -> tuple[Ints | int, Flags | np.bool_]:
    """The value of each event for a slot, and whether the event counts there at all."""
    where = measured.get(_where(slot))
    applies = np.True_ if where is None else where.to_numpy()
    if slot.value == "1":
        return 1, applies
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
