"""The history log: a workflow's clock and lock, its slots, probes of a whole batch.

The row of `workflow_clocks` is the workflow's history lock. Whoever books events ticks the clock
first, so that `known_at` in the log, and `as_of` of tickets, only ever grow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.history import HistoryPlan
from tiebreak.core.readings import Probe
from tiebreak.core.totals import initial
from tiebreak.errors import Conflict, IntegrityFailure
from tiebreak.store.keyed import entity_key
from tiebreak.store.unit import Connection

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
EntityKeys = Mapping[str, Sequence[bytes | None]]


class ClockBehind(Conflict):
    """The time given is not later than what the workflow has already recorded."""

    code = "clock_behind"


NOT_READY_HINT = (
    "Its history features differ from those that history was collected for; "
    "take a version with the same ones, or import into a new database."
)


class HistoryNotReady(Conflict):
    """The history log does not keep the totals that this version of the workflow reads."""

    code = "history_not_ready"


@dataclass(frozen=True, slots=True)
class Tick:
    """One moment of a workflow, held under its lock until the transaction ends."""

    workflow: str
    at: datetime
    generation: int
    order: Mapping[str, NDArray[np.intp]]  # by entity: where in the log's row each slot stands

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
    Raises `HistoryNotReady` when the log keeps other slots than the plan's. The slots of a
    workflow without history are registered here.
    """
    return await ticked(conn, workflow, plan, await conn.fetchrow(_TICK, workflow, at), at)


async def ticked(
    conn: Connection, workflow: str, plan: HistoryPlan, row: Mapping[str, Any], at: datetime | None
) -> Tick:
    """The moment that `history_tick` gave as `row`; raises as `tick` does."""
    if at is not None and row["last_as_of"] != at:
        raise ClockBehind(
            hint="Older history is imported before live tickets, or into a new generation.",
            workflow=workflow,
        )
    generation = row["history_generation"]
    order = _order(plan, tuple(row["slots"]))
    if order is None:
        order = await _register(conn, workflow, generation, plan)
    return Tick(workflow, row["last_as_of"], generation, order)


async def _register(
    conn: Connection, workflow: str, generation: int, plan: HistoryPlan
) -> Mapping[str, NDArray[np.intp]]:
    """Write the plan's slots for a generation without any; under the workflow's lock."""
    if not await conn.fetchval(_HAS_SLOTS, workflow, generation):
        rows = [(e, i, slot.id) for e, slots in plan.slots.items() for i, slot in enumerate(slots)]
        entities, positions, ids = zip(*rows, strict=True)
        await conn.execute(_ADD_SLOTS, workflow, generation, entities, positions, ids)
    order = _order(plan, tuple(await conn.fetchval(_SLOTS, workflow, generation)))
    if order is None:
        raise HistoryNotReady(
            hint=NOT_READY_HINT,
            workflow=workflow,
        )
    return order


@lru_cache(maxsize=64)
def _order(plan: HistoryPlan, stored: tuple[str, ...]) -> dict[str, NDArray[np.intp]] | None:
    """Where each slot of the plan stands in the log; None when the log keeps other slots.

    Slots the log keeps but the plan lacks would silently stop growing: that is refused, too.
    """
    positions: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for slot_id in stored:
        entity = slot_id.partition(".")[0]
        positions[slot_id] = sizes.get(entity, 0)
        sizes[entity] = positions[slot_id] + 1
    wanted = {slot.id for slots in plan.slots.values() for slot in slots}
    if wanted != positions.keys():
        return None
    return {
        entity: np.array([positions[slot.id] for slot in slots], dtype=np.intp)
        for entity, slots in plan.slots.items()
    }


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
        found: dict[Probe, tuple[Ints, Flags]] = {}
        for probe, totals in self.totals.items():
            rows = self.rows[probe.entity]
            index = np.array([-1 if k is None else rows[k] for k in keys[probe.entity]], np.intp)
            found[probe] = (totals[index], index >= 0)
        return found


async def read(conn: Connection, tick: Tick, plan: HistoryPlan, *groups: EntityKeys) -> Known:
    """Probe the log for every entity in these groups of tickets, all in one query.

    Cost is one index probe a pair of entity and window, however busy the entity is.
    """
    question = Question.of(plan, *groups)
    row = await conn.fetchrow(
        _PROBE, tick.workflow, tick.generation, tick.at, *question.arguments()
    )
    return question.known(tick, row)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the log about entities: the probes of a plan for each of their keys."""

    plan: HistoryPlan
    rows: Mapping[str, Mapping[bytes, int]]  # by entity: the row of each key

    @classmethod
    def of(cls, plan: HistoryPlan, *groups: EntityKeys) -> Question:
        """About every entity in these groups of tickets."""
        return cls(
            plan,
            {
                entity: {key: row for row, key in enumerate(_distinct(groups, entity))}
                for entity in plan.slots
            },
        )

    def arguments(self) -> tuple[bytes, list[int], list[int], list[int]]:
        """What `history_probe` takes: all keys, and of each probe its keys and its window."""
        firsts, size = dict[str, int](), 0
        for entity, rows in self.rows.items():
            firsts[entity] = size
            size += len(rows)
        probes = self.plan.probes
        return (
            b"".join(key for rows in self.rows.values() for key in rows),
            [firsts[probe.entity] for probe in probes],
            [len(self.rows[probe.entity]) for probe in probes],
            [probe.window_us or 0 for probe in probes],
        )

    def known(self, tick: Tick, answer: Mapping[str, Any]) -> Known:
        """What a row of `history_probe` says."""
        places = np.array(answer["places"], dtype=np.intp)
        binary: bytes = answer["totals"]
        totals: dict[Probe, Ints] = {}
        place = byte = 0
        for probe, count in zip(self.plan.probes, answer["counts"], strict=True):
            slots = self.plan.slots[probe.entity]
            # One row more than there are keys: tickets without the entity point at the last.
            table = np.tile(initial(slots), (len(self.rows[probe.entity]) + 1, 1))
            if count:
                end = byte + count * (_ARRAY_HEADER_BYTES + len(slots) * _ELEMENT_BYTES)
                found = _integers(binary[byte:end], len(slots))
                table[places[place : place + count]] = found[:, tick.order[probe.entity]]
                place, byte = place + count, end
            totals[probe] = table
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


def _integers(binary: bytes, width: int) -> Ints:
    """Rows of int8 arrays, each in Postgres' binary form, as (rows, width)."""
    if len(binary) % (_ARRAY_HEADER_BYTES + width * _ELEMENT_BYTES):
        raise IntegrityFailure(_NOT_ITS_SLOTS)
    element = np.dtype([("size", ">i4"), ("value", ">i8")])
    row = np.dtype([("header", f"V{_ARRAY_HEADER_BYTES}"), ("elements", element, (width,))])
    elements = np.frombuffer(binary, dtype=row)["elements"]
    if not (elements["size"] == 8).all():
        raise IntegrityFailure(_NOT_ITS_SLOTS)
    return elements["value"].astype(np.int64)


_ARRAY_HEADER_BYTES = 20
_ELEMENT_BYTES = 12
_NOT_ITS_SLOTS = "A row of the history log does not hold its slots."

_TICK = "SELECT * FROM history_tick($1, $2)"

_HAS_SLOTS = "SELECT EXISTS (SELECT FROM history_slots WHERE workflow = $1 AND generation = $2)"

_ADD_SLOTS = """
    INSERT INTO history_slots (workflow, generation, entity, position, slot)
    SELECT $1, $2, new.* FROM unnest($3::text[], $4::int[], $5::text[]) AS new
"""

_SLOTS = """
    SELECT ARRAY(
        SELECT slot FROM history_slots WHERE workflow = $1 AND generation = $2
        ORDER BY entity, position)
"""

_PROBE = "SELECT * FROM history_probe($1, $2, $3, $4, $5, $6, $7)"
