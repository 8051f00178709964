"""Running totals over knowledge time, and a log of them in memory.

What was known about an entity is a log in `as_of` order; each row carries running totals, one a
*slot*. All values are int64. A `sum` slot starts at 0 and grows by checked additions; a `last`
slot holds the newest value and starts EMPTY.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numba
import numpy as np
import orjson
from numpy.typing import NDArray

from tiebreak.core.workflow import EventKind
from tiebreak.errors import InvalidInput

SMALLEST, LARGEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
EMPTY = SMALLEST
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
