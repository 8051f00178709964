"""Totals just before windows begin, read ahead of the history lock and remembered.

The log before a moment that its clock has passed never changes, so what an entity's totals were
there need not be read under the lock, nor twice: they hold for every window that begins after the
row they stand in and not after the entity's next row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

import numpy as np

from tiebreak.core.history import HistoryPlan
from tiebreak.core.readings import Probe
from tiebreak.core.totals import Flags, Ints, initial
from tiebreak.store.history import EPOCH, Known, Question, Tick, integers, row_bytes
from tiebreak.store.kept import Order
from tiebreak.store.unit import Connection

MOST_ENTITIES = 20_000  # remembered a probe; then it starts anew
MARGIN_SHARE = 0.25  # of a window: how far ahead of its begin a look goes, so that it holds longer
MOST_MARGIN_US = 600_000_000
LEAD_US = 100_000  # what ends so soon is read again before the lock rather than under it
_BEFORE_ALL = np.iinfo(np.int64).min


@dataclass(eq=False)
class _Spans:
    """What is remembered for one probe: totals an entity, and which begins they hold for."""

    totals: Ints  # (entities, slots), in the plan's order
    after: Ints  # (entities,) microseconds: a window that begins later than this
    until: Ints  # (entities,) and not later than this
    rows: dict[bytes, int] = field(default_factory=dict[bytes, int])

    @classmethod
    def empty(cls, slots: int) -> _Spans:
        return cls(np.empty((0, slots), np.int64), np.empty(0, np.int64), np.empty(0, np.int64))

    def lacking(self, keys: Sequence[bytes], begin_us: int) -> list[bytes]:
        """The entities whose totals are not known for a window that begins then."""
        if self.find(keys, begin_us) is not None:
            return []
        held = [key for key in keys if key in self.rows]
        holds = self._hold([self.rows[key] for key in held], begin_us)
        there = {key for key, is_so in zip(held, holds.tolist(), strict=True) if is_so}
        return [key for key in keys if key not in there]

    def learn(self, keys: Sequence[bytes], totals: Ints, after: Ints, until: Ints) -> None:
        """Remember what was read about these entities."""
        if len(self.rows) + len(keys) > MOST_ENTITIES:
            self.rows.clear()
        for key in keys:
            self.rows.setdefault(key, len(self.rows))
        if len(self.rows) > len(self.after):
            room = 2 * len(self.rows)
            self.totals = np.resize(self.totals, (room, self.totals.shape[1]))
            self.after, self.until = np.resize(self.after, room), np.resize(self.until, room)
        at = [self.rows[key] for key in keys]
        self.totals[at], self.after[at], self.until[at] = totals, after, until

    def find(self, keys: Sequence[bytes], begin_us: int) -> Ints | None:
        """The totals of these entities, (keys, slots); None when one is not known."""
        at = [self.rows.get(key, -1) for key in keys]
        if at and min(at) < 0:
            return None
        return self.totals[at] if self._hold(at, begin_us).all() else None

    def _hold(self, at: list[int], begin_us: int) -> Flags:
        """Which of these hold for a window that begins then."""
        return (self.after[at] < begin_us) & (begin_us <= self.until[at])


@dataclass(frozen=True, eq=False)
class _Memory:
    """What is remembered of one generation of a workflow's log."""

    generation: int
    plan: HistoryPlan
    order: Order
    spans: Mapping[Probe, _Spans]


class Starts:
    """What one process remembers of the logs' past."""

    def __init__(self) -> None:
        self._of: dict[str, _Memory] = {}

    def follow(self, tick: Tick) -> None:
        """Remember what is read from now on of the log that this tick belongs to."""
        memory = self._of.get(tick.workflow)
        if (
            memory is not None
            and memory.generation == tick.generation
            and memory.plan is tick.plan
            and memory.order is tick.order
        ):
            return
        spans = {p: _Spans.empty(len(tick.plan.slots[p.entity])) for p in tick.plan.windows}
        self._of[tick.workflow] = _Memory(tick.generation, tick.plan, tick.order, spans)

    async def read(
        self, conn: Connection, workflow: str, question: Question, about: datetime
    ) -> bool:
        """Read what is not yet known of the question's windows; whether all of it is known then.

        Called before the history is locked, for windows that end at about that time.
        """
        memory = self._of.get(workflow)
        if memory is None or memory.plan is not question.plan:
            return False
        about_us = _us(about)
        wanted: dict[Probe, list[bytes]] = {}
        for probe, spans in memory.spans.items():
            begin_us = about_us - _window_us(probe) + LEAD_US
            lacking = spans.lacking(list(question.rows[probe.entity]), begin_us)
            if lacking:
                wanted[probe] = lacking
        if not wanted:
            return True
        row = await conn.fetchrow(_STARTS, workflow, *_arguments(wanted, about_us))
        if row["generation"] != memory.generation:
            return False
        _learn(memory, wanted, about_us, row)
        return True

    def known(self, tick: Tick, known: Known) -> Known | None:
        """`known` and with it the totals before all windows; None when they are not all known."""
        memory = self._of.get(tick.workflow)
        if memory is None or memory.generation != tick.generation or memory.plan is not tick.plan:
            return None
        totals = dict(known.totals)
        for probe, spans in memory.spans.items():
            found = spans.find(list(known.rows[probe.entity]), tick.at_us - _window_us(probe))
            if found is None:
                return None
            none = initial(tick.plan.slots[probe.entity])
            totals[probe] = np.concatenate([found, none[np.newaxis]])
        return Known(known.plan, known.rows, totals)


def _window_us(probe: Probe) -> int:
    assert probe.window_us is not None
    return probe.window_us


def _margin_us(probe: Probe) -> int:
    return min(int(_window_us(probe) * MARGIN_SHARE), MOST_MARGIN_US)


def _arguments(
    wanted: Mapping[Probe, Sequence[bytes]], about_us: int
) -> tuple[bytes, list[int], list[int], list[datetime], list[datetime]]:
    """What `history_starts` takes: the keys, and of each probe its keys, begin and look ahead."""
    sizes = [len(keys) for keys in wanted.values()]
    begins = [about_us - _window_us(probe) for probe in wanted]
    looks = [begin + _margin_us(probe) for probe, begin in zip(wanted, begins, strict=True)]
    return (
        b"".join(key for keys in wanted.values() for key in keys),
        [end - size for end, size in zip(accumulate(sizes), sizes, strict=True)],
        sizes,
        [_moment(us) for us in begins],
        [_moment(us) for us in looks],
    )


def _learn(
    memory: _Memory, wanted: Mapping[Probe, Sequence[bytes]], about_us: int, row: Mapping[str, Any]
) -> None:
    """Remember what a row of `history_starts` says."""
    probed, places = (np.array(row[name], np.intp) for name in ("probes", "places"))
    has_row = np.array(row["has_row"], np.bool_)
    after = np.array([_BEFORE_ALL if m is None else _us(m) for m in row["after"]], np.int64)
    until = np.array([_us(m) for m in row["until"]], np.int64)
    binary: bytes = row["totals"]
    byte = 0
    assert (np.diff(probed) >= 0).all()  # one probe after the other, as they were asked
    for number, (probe, keys) in enumerate(wanted.items(), 1):
        slots = memory.plan.slots[probe.entity]
        mine = probed == number
        at, is_there = places[mine], has_row[mine]
        end = byte + int(is_there.sum()) * row_bytes(len(slots))
        totals = np.tile(initial(slots), (len(keys), 1))
        totals[at[is_there]] = integers(binary[byte:end], len(slots))[:, memory.order[probe.entity]]
        after_all = np.full(len(keys), _BEFORE_ALL)
        after_all[at] = after[mine]
        until_all = np.full(len(keys), about_us - _window_us(probe) + _margin_us(probe))
        until_all[at] = until[mine]
        memory.spans[probe].learn(keys, totals, after_all, np.minimum(until_all, _us(row["clock"])))
        byte = end


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // _MICROSECOND


def _moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


_MICROSECOND = timedelta(microseconds=1)

_STARTS = "SELECT * FROM history_starts($1, $2, $3, $4, $5, $6)"
