"""The history log: a workflow's clock and lock, its slots, probes of a whole batch.

The row of `workflow_clocks` is the workflow's history lock. Whoever books events ticks the clock
first, so that `known_at` in the log, and `as_of` of tickets, only ever grow.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.history import HistoryPlan
from tiebreak.core.readings import Probe
from tiebreak.core.totals import Flags, Ints
from tiebreak.errors import Conflict, IntegrityFailure
from tiebreak.store.kept import Order, booking
from tiebreak.store.keyed import entity_key
from tiebreak.store.unit import Connection

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

EntityKeys = Mapping[str, Sequence[bytes | None]]


class ClockBehind(Conflict):
    """The time given is not later than what the workflow has already recorded."""

    code = "clock_behind"


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment of a workflow, held under its lock until the transaction ends."""

    workflow: str
    at: datetime
    generation: int
    plan: HistoryPlan  # the one given, with all slots that the log keeps besides
    order: Order

    @property
    def at_us(self) -> int:
        """The moment in microseconds since 1970."""
        return (self.at - EPOCH) // _MICROSECOND


async def tick(
    conn: Connection,
    workflow: str,
    plan: HistoryPlan,
    *,
    at: datetime | None = None,
) -> Tick:
    """Lock the workflow's history and take the next moment: now, or one microsecond later.

    `at` demands this very moment and raises `ClockBehind` when it is not later than the last.
    Raises `HistoryNotReady` when the log lacks slots of the plan. The slots of a workflow without
    tickets are registered here.
    """
    return await ticked(conn, workflow, plan, await conn.fetchrow(_TICK, workflow, at), at)


async def ticked(
    conn: Connection, workflow: str, plan: HistoryPlan, row: Mapping[str, Any], at: datetime | None
) -> Tick:
    """The moment that `history_tick` gave as `row`; raises as `tick` does."""
    if at is not None and row["last_as_of"] != at:
        raise ClockBehind(
            hint="Import older history before live tickets; send later knowledge as outcomes.",
            workflow=workflow,
        )
    generation = row["history_generation"]
    whole, order = await booking(conn, workflow, generation, plan, tuple(row["slots"]))
    return Tick(workflow, row["last_as_of"], generation, whole, order)


def keys_of(
    plan: HistoryPlan, tickets: pl.DataFrame, secret: bytes
) -> dict[str, list[bytes | None]]:
    """By entity, the key of each ticket's entity in the log; None where the ticket has none."""
    workflow = plan.workflow.name
    keys: dict[str, list[bytes | None]] = {}
    for entity, texts in plan.entity_texts(tickets).items():
        known: dict[str | None, bytes | None] = {
            text: entity_key(secret, workflow, entity, text)
            for text in set(texts)
            if text is not None
        }
        keys[entity] = [known.get(text) for text in texts]
    return keys


def take(keys: EntityKeys, rows: Sequence[int]) -> dict[str, list[bytes | None]]:
    """The keys of these tickets only."""
    return {entity: [column[row] for row in rows] for entity, column in keys.items()}


@dataclass(frozen=True, slots=True)
class Known:
    """What one query found in the log: totals of each entity just before each probe's time."""

    plan: HistoryPlan
    rows: Mapping[str, Mapping[bytes, int]]  # by entity: the row of each key
    totals: Mapping[Probe, Ints]  # (keys of the entity, slots), in the plan's order

    def of(self, keys: EntityKeys) -> dict[Probe, tuple[Ints, Flags]]:
        """The totals of these tickets' entities and whether they have the entity, by probe."""
        at: dict[str, tuple[NDArray[np.intp], Flags]] = {}
        for entity, rows in self.rows.items():
            index = np.array([-1 if key is None else rows[key] for key in keys[entity]], np.intp)
            at[entity] = (index, index >= 0)
        found: dict[Probe, tuple[Ints, Flags]] = {}
        for probe, totals in self.totals.items():
            index, has = at[probe.entity]
            found[probe] = (totals.take(index, axis=0), has)
        return found


async def read(conn: Connection, tick: Tick, *groups: EntityKeys) -> Known:
    """Probe the log for every entity in these groups of tickets, all in one query.

    Cost is one index probe a pair of entity and window, however busy the entity is.
    """
    question = Question.of(tick.plan, *groups)
    row = await conn.fetchrow(
        _PROBE, tick.workflow, tick.generation, tick.at, *question.arguments({})
    )
    return question.known(tick, row)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the log about entities: probes of a plan for each of their keys."""

    plan: HistoryPlan
    rows: Mapping[str, Mapping[bytes, int]]  # by entity: the row of each key
    probes: Sequence[Probe]

    @classmethod
    def of(cls, plan: HistoryPlan, *groups: EntityKeys) -> Question:
        """About every entity in these groups of tickets."""
        return cls(
            plan,
            {
                entity: {key: row for row, key in enumerate(_distinct(groups, entity))}
                for entity in plan.slots
            },
            plan.probes,
        )

    def but(self, probes: Collection[Probe]) -> Question:
        """What is asked besides these probes."""
        return replace(self, probes=[probe for probe in self.probes if probe not in probes])

    def arguments(
        self, booked_us: Mapping[bytes, int]
    ) -> tuple[bytes, list[int | None], list[int], list[int], list[int]]:
        """What `history_probe` takes: all keys, when each was booked on as far as that is known,
        and of each probe its keys and its window.
        """
        firsts, size = dict[str, int](), 0
        for entity, rows in self.rows.items():
            firsts[entity] = size
            size += len(rows)
        probes = self.probes
        return (
            b"".join(key for rows in self.rows.values() for key in rows),
            [booked_us.get(key) for rows in self.rows.values() for key in rows],
            [firsts[probe.entity] for probe in probes],
            [len(self.rows[probe.entity]) for probe in probes],
            [probe.window_us or 0 for probe in probes],
        )

    def known(self, tick: Tick, answer: Mapping[str, Any]) -> Known:
        """What a row of `history_probe` says."""
        probed: list[int] = answer["probes"]
        places: list[int] = answer["places"]
        binary: bytes = answer["totals"]
        totals: dict[Probe, Ints] = {}
        first = byte = 0
        assert probed == sorted(probed)  # one probe after the other, as they were asked
        for number, probe in enumerate(self.probes, 1):
            none = self.plan.initial[probe.entity]
            # One row more than there are keys: tickets without the entity point at the last.
            table = none.repeat(len(self.rows[probe.entity]) + 1, axis=0)
            found = places[first : first + probed.count(number)]
            end = byte + len(found) * row_bytes(none.size)
            if found:
                stored = integers(binary[byte:end], none.size)
                table[found] = stored.take(tick.order[probe.entity], axis=1)
            totals[probe] = table
            first, byte = first + len(found), end
        return Known(self.plan, self.rows, totals)


def log_rows(
    tick: Tick, entity: str, keys: Sequence[bytes], known_at: Sequence[datetime], totals: Ints
) -> list[dict[str, object]]:
    """Rows of the log from totals (n, slots) in the plan's order."""
    stored = np.empty_like(totals)
    stored[:, tick.order[entity]] = totals
    return [
        {
            "workflow": tick.workflow,
            "generation": tick.generation,
            "entity_key": key,
            "known_at": time,
            "totals": row,
        }
        for key, time, row in zip(keys, known_at, stored.tolist(), strict=True)
    ]


def _distinct(groups: Sequence[EntityKeys], entity: str) -> list[bytes]:
    keys = dict.fromkeys(key for group in groups for key in group[entity])
    return [key for key in keys if key is not None]


def row_bytes(width: int) -> int:
    """How long an int8 array of this many elements is in Postgres' binary form."""
    return _ARRAY_HEADER_BYTES + width * _ELEMENT_BYTES


def integers(binary: bytes, width: int) -> Ints:
    """Rows of int8 arrays, each in Postgres' binary form, as (rows, width)."""
    if len(binary) % row_bytes(width):
        raise IntegrityFailure(_NOT_ITS_SLOTS)
    elements = np.frombuffer(binary, dtype=_row(width))["elements"]
    if elements["size"].tobytes() != _SIZE * elements.size:
        raise IntegrityFailure(_NOT_ITS_SLOTS)
    return elements["value"].astype(np.int64)


@cache
def _row(width: int) -> np.dtype[np.void]:
    element = np.dtype([("size", ">i4"), ("value", ">i8")])
    return np.dtype([("header", f"V{_ARRAY_HEADER_BYTES}"), ("elements", element, (width,))])


_ARRAY_HEADER_BYTES = 20
_SIZE = (8).to_bytes(4)  # of a value, which stands before each
_ELEMENT_BYTES = 4 + 8
_NOT_ITS_SLOTS = "A row of the history log does not hold its slots."

_TICK = "SELECT * FROM history_tick($1, $2)"

_PROBE = "SELECT * FROM history_probe($1, $2, $3, $4, $5, $6, $7, $8)"
