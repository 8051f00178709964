"""History of many events at once: running totals to store, and the context of every ticket.

The arithmetic is `core.history`'s own; here it is only fed with whole columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from tiebreak.core.history import HistoryPlan
from tiebreak.core.readings import Probe
from tiebreak.core.totals import EMPTY, EntityLog, Flags, Ints, Slot, accumulate, initial
from tiebreak.core.workflow import EventKind


@dataclass(frozen=True, slots=True)
class Happening:
    """Events of one kind: their tickets as columns, when they were known, which are first.

    `codes` says, by kind of entity, on whom each event is booked; -1 is nobody.
    """

    kind: EventKind
    frame: pl.DataFrame
    known_at: Ints
    is_first: Flags
    codes: Mapping[str, Ints]


@dataclass(frozen=True, slots=True)
class Log:
    """Rows of the history log of one kind of entity, in time order: codes, times and totals."""

    codes: Ints
    known_at: Ints
    totals: Ints  # (rows, slots)

    @classmethod
    def empty(cls, slots: tuple[Slot, ...]) -> Log:
        """A log without rows."""
        nothing = np.empty(0, dtype=np.int64)
        return cls(nothing, nothing, np.empty((0, len(slots)), dtype=np.int64))

    def after(self, other: Log) -> Log:
        """The rows of `other`, which is earlier, and then these."""
        return Log(
            np.concatenate([other.codes, self.codes]),
            np.concatenate([other.known_at, self.known_at]),
            np.vstack([other.totals, self.totals]),
        )


class Entities:
    """The entities of one kind by code: their texts, numbered as they are met."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of every entity, by code."""
        return tuple(self._codes)

    def codes(self, texts: Sequence[str | None]) -> Ints:
        """The code of each text; -1 where there is none."""
        known = self._codes
        return np.array(
            [-1 if text is None else known.setdefault(text, len(known)) for text in texts],
            dtype=np.int64,
        )


def new_rows(
    plan: HistoryPlan,
    happenings: Sequence[Happening],
    before: Mapping[str, Log],
) -> dict[str, Log]:
    """The log rows that the events add to what `before` holds; equal times make one row.

    Every event must be later than all of `before`. Raises `HistoryOverflow`.
    """
    added = [
        plan.deltas(happening.kind, happening.frame, happening.known_at, happening.is_first)
        for happening in happenings
    ]
    times = np.concatenate([happening.known_at for happening in happenings])
    rows: dict[str, Log] = {}
    for name, slots in plan.slots.items():
        deltas = np.vstack([delta[name] for delta in added])
        codes = np.concatenate([happening.codes[name] for happening in happenings])
        rows[name] = _totals(slots, codes, times, deltas, before[name])
    return rows


def _totals(slots: tuple[Slot, ...], codes: Ints, times: Ints, deltas: Ints, before: Log) -> Log:
    nothing = np.array([0 if slot.how == "sum" else EMPTY for slot in slots], dtype=np.int64)
    kept = np.flatnonzero((codes >= 0) & (deltas != nothing).any(axis=1))
    order = kept[np.argsort(times[kept], kind="stable")]
    codes, times, deltas = codes[order], times[order], deltas[order]
    width = int(max(codes.max(initial=-1), before.codes.max(initial=-1))) + 1
    start = np.tile(initial(slots), (width, 1))
    start[before.codes] = before.totals  # in time order, so that the newest row stays
    totals = accumulate(start, codes, deltas, slots)
    by_entity = np.lexsort((times, codes))
    is_newest = np.ones(codes.size, dtype=np.bool_)
    same_entity = codes[by_entity][1:] == codes[by_entity][:-1]
    same_time = times[by_entity][1:] == times[by_entity][:-1]
    is_newest[:-1] = ~(same_entity & same_time)
    stored = np.sort(by_entity[is_newest])
    return Log(codes[stored], times[stored], totals[stored])


def contexts(
    plan: HistoryPlan, as_of: Ints, codes: Mapping[str, Ints], logs: Mapping[str, Log]
) -> pl.DataFrame:
    """The context of tickets, as admission would have read it at their `as_of`."""
    totals: dict[Probe, tuple[Ints, Flags]] = {}
    probed = {
        name: EntityLog(plan.slots[name], log.codes, log.known_at, log.totals)
        for name, log in logs.items()
    }
    for probe in plan.probes:
        found = probed[probe.entity].probe(codes[probe.entity], as_of - (probe.window_us or 0))
        totals[probe] = (found, codes[probe.entity] >= 0)
    return plan.context(as_of, totals)
