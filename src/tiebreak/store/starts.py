"""Totals just before windows begin, read ahead of the history lock and remembered.

The log before a moment that its clock has passed never changes, so what an entity's totals were
there need not be read under the lock, nor twice: they hold for every window that begins after the
row they stand in and not after the entity's next row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from tiebreak.core.history import HistoryPlan
from tiebreak.core.readings import Probe
from tiebreak.core.totals import Ints
from tiebreak.store.history import EPOCH, Known, Question, Tick, integers, row_bytes
from tiebreak.store.kept import Order
from tiebreak.store.unit import Connection

MOST_ENTITIES = 20_000  # remembered a probe, and as booked on; then it starts anew
MARGIN_SHARE = 0.25  # of a window: how far ahead of its begin a look goes, so that it holds longer
MOST_MARGIN_US = 600_000_000
FEW = 16  # up to here one more round trip costs more than probes under the lock (measured)
LEAD_US = 100_000  # what ends so soon is read again before the lock rather than under it
_EVER = 2**63


class _Span(NamedTuple):
    """The row that an entity's totals stand in, and which ends of windows they hold for."""

    row: int
    after: int  # microseconds: windows that end later than this
    until: int  # and not later than this


class _Held(NamedTuple):
    """Totals of several entities, and which ends of windows all of them hold for."""

    totals: Mapping[Probe, Ints]  # (1 + entities, slots); the last row is of no entity
    after: int
    until: int


@dataclass(eq=False)
class _Spans:
    """What is remembered of one kind of entity, for all its windows."""

    totals: dict[Probe, Ints]  # (1 + entities, slots), in the plan's order; row 0 is of no entity
    of: dict[bytes, _Span] = field(default_factory=dict[bytes, _Span])

    def find(self, keys: Iterable[bytes], end_us: int) -> list[_Span]:
        """What is known of these entities for windows that end then."""
        return [
            span
            for key in keys
            if (span := self.of.get(key)) is not None and span.after < end_us <= span.until
        ]

    def held(self, found: Sequence[_Span]) -> _Held:
        """The totals that stand there, and what they all hold for."""
        rows = np.array([*[span.row for span in found], 0], dtype=np.intp)
        return _Held(
            {probe: totals.take(rows, axis=0) for probe, totals in self.totals.items()},
            max([span.after for span in found], default=-_EVER),
            min([span.until for span in found], default=_EVER),
        )

    def learn(
        self,
        keys: Sequence[bytes],
        read: Mapping[Probe, Ints],
        after: Sequence[int],
        until: Sequence[int],
    ) -> None:
        """Remember what was read about these entities."""
        if len(self.of) + len(keys) > MOST_ENTITIES:
            self.of.clear()
        rows = list[int]()
        for key, *times in zip(keys, after, until, strict=True):
            before = self.of.get(key)
            rows.append(len(self.of) + 1 if before is None else before.row)
            self.of[key] = _Span(rows[-1], *times)
        for probe, totals in self.totals.items():
            if len(self.of) >= len(totals):
                self.totals[probe] = np.resize(totals, (2 * len(self.of) + 1, totals.shape[1]))
            self.totals[probe][rows] = read[probe]


@dataclass(frozen=True, eq=False)
class _Memory:
    """What is remembered of one generation of a workflow's log."""

    generation: int
    plan: HistoryPlan
    order: Order
    spans: Mapping[str, _Spans]  # by entity, of those with windows


@dataclass(frozen=True, eq=False)
class Begins:
    """The totals before windows of a question, and the moments for which they hold."""

    generation: int
    plan: HistoryPlan
    totals: Mapping[Probe, Ints]  # as in `Known`
    after_us: int  # windows that end later than this
    until_us: int  # and not later than this

    def complete(self, tick: Tick, known: Known) -> Known | None:
        """`known` and with it these totals; None when they do not hold now."""
        if self.generation != tick.generation or self.plan is not tick.plan:
            return None
        if not self.after_us < tick.at_us <= self.until_us:
            return None
        return Known(known.plan, known.rows, {**known.totals, **self.totals})


class Starts:
    """What one process remembers of the logs' past."""

    def __init__(self) -> None:
        self._of: dict[str, _Memory] = {}
        self.booked_us: dict[bytes, int] = {}  # by entity; that booking may have been rolled back

    def note(self, keys: Collection[bytes], tick: Tick) -> None:
        """Remember that these entities are booked on at this tick."""
        if len(self.booked_us) + len(keys) > MOST_ENTITIES:
            self.booked_us.clear()
        self.booked_us.update(dict.fromkeys(keys, tick.at_us))

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
        spans = dict[str, _Spans]()
        for probe in tick.plan.windows:
            of_entity = spans.setdefault(probe.entity, _Spans({}))
            of_entity.totals[probe] = tick.plan.initial[probe.entity].copy()
        self._of[tick.workflow] = _Memory(tick.generation, tick.plan, tick.order, spans)

    async def read(
        self, conn: Connection, workflow: str, question: Question, about: datetime
    ) -> Begins | None:
        """The totals before the question's windows, those read that are not yet known.

        Called before the history is locked, for windows that end at about that time. When a few
        are not known, they are left to be asked under the lock. None when nothing is remembered
        of the log as it is now.
        """
        memory = self._of.get(workflow)
        if memory is None or memory.plan is not question.plan:
            return None
        about_us, looks = _us(about), 0
        held, wanted = dict[str, _Held](), dict[str, list[bytes]]()
        for entity, spans in memory.spans.items():
            keys = question.rows[entity]
            found = spans.find(keys, about_us + LEAD_US)
            if len(found) == len(keys):
                held[entity] = spans.held(found)
            else:
                wanted[entity] = [k for k in keys if not spans.find([k], about_us + LEAD_US)]
                looks += len(keys) * len(spans.totals)
        if looks > FEW:
            asked = {p: keys for e, keys in wanted.items() for p in memory.spans[e].totals}
            row = await conn.fetchrow(_STARTS, workflow, *_arguments(asked, about_us))
            if row["generation"] != memory.generation:
                return None
            _learn(memory, wanted, about_us, row)
            for entity in wanted:
                keys, spans = question.rows[entity], memory.spans[entity]
                if not all(key in spans.of for key in keys):
                    return None  # too much was remembered, and some of it is forgotten
                held[entity] = spans.held([spans.of[key] for key in keys])
        return Begins(
            memory.generation,
            memory.plan,
            {probe: totals for each in held.values() for probe, totals in each.totals.items()},
            max([each.after for each in held.values()], default=-_EVER),
            min([each.until for each in held.values()], default=_EVER),
        )


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
    memory: _Memory, wanted: Mapping[str, Sequence[bytes]], about_us: int, row: Mapping[str, Any]
) -> None:
    """Remember what a row of `history_starts` says of these entities."""
    probed, places, has_row = row["probes"], row["places"], row["has_row"]
    afters, untils, binary = row["after"], row["until"], row["totals"]
    clock_us = _us(row["clock"])
    number = at = byte = 0
    assert probed == sorted(probed)  # one probe after the other, as they were asked
    for entity, keys in wanted.items():
        none, read = memory.plan.initial[entity], dict[Probe, Ints]()
        after: list[int] = [-_EVER] * len(keys)
        until: list[int] = [_EVER] * len(keys)
        for probe in memory.spans[entity].totals:
            window_us, number = _window_us(probe), number + 1
            look_us = about_us - window_us + _margin_us(probe)
            last, there = [min(look_us, clock_us)] * len(keys), list[int]()
            for i in range(at, at + probed.count(number)):
                place: int = places[i]
                at = i + 1
                last[place] = min(_us(untils[i]), clock_us)
                if afters[i] is not None:
                    after[place] = max(after[place], _us(afters[i]) + window_us)
                if has_row[i]:
                    there.append(place)
            until = [min(pair) for pair in zip(until, (us + window_us for us in last), strict=True)]
            read[probe] = none.repeat(len(keys), axis=0)
            end = byte + len(there) * row_bytes(none.size)
            if there:
                stored = integers(binary[byte:end], none.size)
                read[probe][there] = stored.take(memory.order[entity], axis=1)
            byte = end
        memory.spans[entity].learn(keys, read, after, until)


def _us(moment: datetime) -> int:
    return (moment - EPOCH) // _MICROSECOND


def _moment(us: int) -> datetime:
    return EPOCH + timedelta(microseconds=us)


_MICROSECOND = timedelta(microseconds=1)

_STARTS = "SELECT * FROM history_starts($1, $2, $3, $4, $5, $6)"
