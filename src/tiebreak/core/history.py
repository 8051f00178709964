"""The history a workflow reads and what a ticket is given of it, its context.

The arithmetic stands here, in `bookings` and in `totals` once; a database or a log in memory only
looks totals up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from tiebreak.core.bare import sliced
from tiebreak.core.bookings import Bookings, Strand
from tiebreak.core.expressions import Symbol
from tiebreak.core.readings import Probe, Reading, feature_column, feature_type, readings_of
from tiebreak.core.totals import EMPTY, Flags, Ints, Slot, initial
from tiebreak.core.workflow import EventKind, Workflow


class HistoryPlan:
    """What history a workflow reads: slots by entity, the probes a ticket needs, its context.

    `others` are slots of other versions that are only booked; an entity's own slots stand before
    them. `also` are readings of slots among them that tickets are given besides. Raises
    `ExpressionError` when an expression of a history feature is mistaken.
    """

    def __init__(self, workflow: Workflow, *others: Strand, also: Sequence[Reading] = ()) -> None:
        self.workflow = workflow
        self.readings = readings_of(workflow)
        self.also = tuple(also)
        by_entity: dict[str, dict[str, Slot]] = {entity.name: {} for entity in workflow.entities}
        for reading in self.readings:
            for slot in reading.slots:
                by_entity[slot.entity].setdefault(slot.id, slot)
        own = {name: tuple(slots.values()) for name, slots in by_entity.items() if slots}
        self.bookings = Bookings(Strand(workflow, own), *others)
        self.slots = self.bookings.slots
        # By entity, the totals of one about which nothing is known, shape (1, slots).
        self.initial = {name: initial(slots)[np.newaxis] for name, slots in self.slots.items()}
        self.probes = self._probes()
        self.windows = tuple(probe for probe in self.probes if probe.window_us is not None)
        positions = {slot.id: i for slots in self.slots.values() for i, slot in enumerate(slots)}
        self.context_probes: dict[str, tuple[Probe, ...]] = {}
        self._cut: dict[tuple[Probe, ...], dict[str, tuple[int, bool]]] = {}
        for reading in (*self.readings, *self.also):
            for slot, column in zip(reading.slots, reading.columns, strict=True):
                is_last = slot.how == "last"
                window_us = None if is_last else reading.window_us
                probes = (Probe(slot.entity, None),)
                if window_us is not None:
                    probes = (*probes, Probe(slot.entity, window_us))
                self.context_probes[column] = probes
                self._cut.setdefault(probes, {})[column] = (positions[slot.id], is_last)
        self.context_columns = tuple(self.context_probes)

    def _probes(self) -> tuple[Probe, ...]:
        given = (*self.readings, *self.also)
        windows = {(r.feature.entity, r.window_us) for r in given if r.window_us}
        now = [Probe(entity, None) for entity in self.slots]
        return (*now, *(Probe(e, w) for e, w in sorted(windows, key=str)))

    def keeping(self, *others: Strand) -> HistoryPlan:
        """This plan, which books the slots of other versions, too."""
        return HistoryPlan(self.workflow, *others, also=self.also)

    def reading(self, other: HistoryPlan) -> HistoryPlan:
        """This plan, which gives tickets what the other one reads, too."""
        also = [r for r in other.readings if not set(r.columns) <= set(self.context_columns)]
        if not also:
            return self
        mine = {slot.id for slots in self.strand.slots.values() for slot in slots}
        theirs = {slot.id for slots in other.strand.slots.values() for slot in slots}
        return HistoryPlan(self.workflow, other.strand.only(theirs - mine), also=also)

    @property
    def strand(self) -> Strand:
        """The slots that this plan reads, without those that it only books."""
        return self.bookings.strands[0]

    def definitions(self) -> dict[str, tuple[int, str]]:
        """Of each slot its position among its entity's and the version that defines it, by id."""
        versions = {
            slot.id: strand.workflow.version
            for strand in self.bookings.strands
            for slots in strand.slots.values()
            for slot in slots
        }
        return {
            slot.id: (position, versions[slot.id])
            for slots in self.slots.values()
            for position, slot in enumerate(slots)
        }

    def field_names(self) -> frozenset[str]:
        """The fields of tickets and outcomes that are read to book the plan's own slots."""
        return self.strand.field_names()

    def entity_texts(self, tickets: pl.DataFrame) -> dict[str, list[str | None]]:
        """The text that identifies each entity of each ticket; None where the ticket has none."""
        return self.bookings.entity_texts(tickets)

    def deltas(
        self, on: EventKind, events: pl.DataFrame, known_at: Ints, is_first: Flags
    ) -> dict[str, Ints]:
        """As `Bookings.deltas`."""
        return self.bookings.deltas(on, events, known_at, is_first)

    def context_values(
        self, totals: Mapping[Probe, tuple[Ints, Flags]]
    ) -> dict[str, tuple[Ints, Flags]]:
        """Every context column's values and where they are known, shape (n,) each.

        `totals` holds for every probe the totals found, (n, slots of the entity), and whether the
        ticket has the entity at all.
        """
        columns: dict[str, tuple[Ints, Flags]] = {}
        for (now, *begin), cut in self._cut.items():
            values, is_known = totals[now]
            if begin:
                values = values - totals[begin[0]][0]
            for column, (position, is_last) in cut.items():
                value = values[:, position]
                columns[column] = (value, is_known & (value != EMPTY) if is_last else is_known)
        return {column: columns[column] for column in self.context_columns}

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
    return sliced(flat, list(values), height)
