"""Booking: what events of one moment add to the totals of their entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tiebreak.core.history import HistoryPlan
from tiebreak.core.readings import Probe
from tiebreak.core.totals import Flags, HistoryOverflow, Ints, accumulate
from tiebreak.core.workflow import EventKind
from tiebreak.store import tables
from tiebreak.store.history import EntityKeys, Known, Tick, log_rows
from tiebreak.store.unit import Unit


@dataclass(slots=True)
class Ledger:
    """The totals of entities while events of one moment are booked on them."""

    plan: HistoryPlan
    tick: Tick
    known: Known
    _changed: dict[str, dict[bytes, Ints]]

    @classmethod
    def of(cls, tick: Tick, known: Known) -> Ledger:
        """A ledger that begins with the totals just before the tick."""
        return cls(known.plan, tick, known, {entity: {} for entity in known.plan.slots})

    def book(
        self, on: EventKind, events: pl.DataFrame, is_first: Flags, keys: EntityKeys
    ) -> set[int]:
        """Book events of one kind in their order; the rows refused because a total overflows."""
        times = np.full(events.height, self.tick.at_us, dtype=np.int64)
        try:
            self._book(self.plan.deltas(on, events, times, is_first), keys)
        except HistoryOverflow:
            return self._book_each(on, events, is_first, keys)
        return set()

    def _book_each(
        self, on: EventKind, events: pl.DataFrame, is_first: Flags, keys: EntityKeys
    ) -> set[int]:
        refused: set[int] = set()
        for i in range(events.height):
            time = np.array([self.tick.at_us], dtype=np.int64)
            one = {entity: [column[i]] for entity, column in keys.items()}
            try:
                self._book(self.plan.deltas(on, events[i : i + 1], time, is_first[i : i + 1]), one)
            except HistoryOverflow:
                refused.add(i)
        return refused

    def _book(self, deltas: Mapping[str, Ints], keys: EntityKeys) -> None:
        """Add to the totals of all entities, or of none when one overflows."""
        changed = [
            (entity, self._totals(entity, addends, keys[entity]))
            for entity, addends in deltas.items()
        ]
        for entity, totals in changed:
            self._changed[entity].update(totals)

    def _totals(
        self, entity: str, addends: Ints, keys: Sequence[bytes | None]
    ) -> dict[bytes, Ints]:
        # Events that change any total, of tickets that have the entity.
        is_effective = (addends != self.plan.initial[entity]).any(axis=1).tolist()
        touched = [i for i, key in enumerate(keys) if is_effective[i] and key is not None]
        if not touched:
            return {}
        owners = [key for i in touched if (key := keys[i]) is not None]
        rows = {key: row for row, key in enumerate(dict.fromkeys(owners))}
        start = self._now(entity, list(rows))
        owner_rows = np.array([rows[key] for key in owners], dtype=np.int64)
        totals = accumulate(start, owner_rows, addends[touched], self.plan.slots[entity])
        return dict(zip(owners, totals, strict=True))

    def _now(self, entity: str, keys: list[bytes]) -> Ints:
        """The totals of these entities with all that is booked already, (keys, slots)."""
        rows, changed = self.known.rows[entity], self._changed[entity]
        totals = self.known.totals[Probe(entity, None)].take([rows[key] for key in keys], axis=0)
        if changed:
            for row, key in enumerate(keys):
                if key in changed:
                    totals[row] = changed[key]
        return totals

    def entities(self) -> list[bytes]:
        """The keys of the entities on which anything was booked."""
        return [key for changed in self._changed.values() for key in changed]

    def write(self, unit: Unit) -> None:
        """Add one row an entity with what was booked on it."""
        for entity, changed in self._changed.items():
            if changed:
                times = [self.tick.at] * len(changed)
                totals = np.array(list(changed.values()))
                unit.add(
                    tables.history_log, log_rows(self.tick, entity, list(changed), times, totals)
                )
