"""How many connections each of several processes holds, in memory that all of them share."""

from __future__ import annotations

import mmap
import os
import tempfile

ABSENT = -1  # takes none: it has not started, or stops
_COUNT_BYTES = 4


def create(places: int) -> int:
    """The number of a file with this many places, nobody there yet; for processes to inherit."""
    with tempfile.TemporaryFile() as file:
        file.write(ABSENT.to_bytes(_COUNT_BYTES, "little", signed=True) * places)
        file.flush()
        return os.dup(file.fileno())


class Headcount:
    """One process's place among the others.

    What another has told last is believed, even if that process has gone since: who waits for
    others must not wait for long.
    """

    def __init__(self, file_number: int, place: int) -> None:
        self._counts = memoryview(mmap.mmap(file_number, 0)).cast("i")
        self._place = place

    def tell(self, count: int) -> None:
        """So many I hold from now on; `ABSENT`: I take no more."""
        self._counts[self._place] = count

    @property
    def is_ahead(self) -> bool:
        """Whether somebody who takes connections holds fewer than I do."""
        mine = self._counts[self._place]
        return any(ABSENT < other < mine for other in self._counts)
