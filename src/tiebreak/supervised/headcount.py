"""What each of several processes tells the others of its work, in memory that all of them share."""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from array import array
from typing import NamedTuple

ABSENT = -1  # takes no connections: it has not started, or stops
FRESH_SECONDS = 1.0  # what was told is taken to be so; each tells ten times a second


class Told(NamedTuple):
    """What a process told last."""

    connections: int  # that it holds, or ABSENT
    batch: int  # how many tickets a batch of it holds of late; 0 without tickets
    at: int  # by `_now`

    @property
    def is_there(self) -> bool:
        """Whether it takes connections, and is neither stuck nor gone."""
        return self.connections > ABSENT and _now() - self.at < FRESH_SECONDS * 1000


_NOTHING = Told(ABSENT, 0, 0)


def create(places: int) -> int:
    """The number of a file with this many places, nobody there yet; for processes to inherit."""
    with tempfile.TemporaryFile() as file:
        file.write(array("i", _NOTHING * places).tobytes())
        file.flush()
        return os.dup(file.fileno())


class Headcount:
    """One process's place among the others.

    What another has told last of its connections is believed, even if that process has gone since:
    who waits for others must not wait for long.
    """

    def __init__(self, file_number: int, place: int) -> None:
        self._told = memoryview(mmap.mmap(file_number, 0)).cast("i")
        self.place = place

    def tell(self, connections: int) -> None:
        """So many I hold from now on; `ABSENT`: I take no more."""
        self._told[len(_NOTHING) * self.place] = connections

    def tell_batch(self, tickets: int) -> None:
        """So many tickets I decide at once, now."""
        first = len(_NOTHING) * self.place
        self._told[first + 1], self._told[first + 2] = tickets, _now()

    def everybody(self) -> list[Told]:
        """What each told last, by place."""
        size = len(_NOTHING)
        return [Told(*self._told[i : i + size]) for i in range(0, len(self._told), size)]

    @property
    def is_ahead(self) -> bool:
        """Whether somebody who takes connections holds fewer than I do."""
        connections = self._told[:: len(_NOTHING)]
        return any(ABSENT < other < connections[self.place] for other in connections)


def _now() -> int:
    """Milliseconds of the clock that all processes of the machine share; 0 again after 24 days."""
    return time.monotonic_ns() // 1_000_000 % 2**31
