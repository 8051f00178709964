"""New pages on their way to the disk: those of a second, not all of half a minute at once.

PostgreSQL has what it writes to a table written to the disk soon, but the pages by which it makes
one longer it leaves to the system. That keeps them for 30 seconds and then writes them all, while
every commit waits for the same disk.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

Begin = Callable[[int, int, int], object]  # a file's number, the first byte, how many

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux


class Writeback:
    """Lets the system begin to write what files in a folder's folders have grown by.

    It neither waits for the disk nor makes anything durable; that is what checkpoints are for.
    """

    def __init__(self, folder: Path, begin: Begin) -> None:
        self._folder = folder
        self._begin = begin
        self._sizes: dict[str, int] | None = None  # at the last look, by path

    @classmethod
    def of(cls, folder: Path) -> Writeback | None:
        """The same; None where the system has no call for it."""
        call = getattr(ctypes.CDLL(None), "sync_file_range", None)
        if call is None:
            return None
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        return cls(folder, lambda number, first, count: call(number, first, count, _WRITE))

    def look(self) -> None:
        """Begin with what there is more than at the last look; with nothing at the first.

        Raises OSError when the folder cannot be read.
        """
        before, self._sizes = self._sizes, self._read_sizes()
        if before is None:
            return
        for path, size in self._sizes.items():
            first = before.get(path, 0)
            if size > first:
                with suppress(FileNotFoundError):  # gone meanwhile
                    self._let_begin(path, first, size - first)

    def _read_sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        databases = [each for each in os.scandir(self._folder) if each.is_dir()]
        for database in databases:
            for entry in os.scandir(database):
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        sizes[entry.path] = entry.stat().st_size
        return sizes

    def _let_begin(self, path: str, first: int, count: int) -> None:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            self._begin(number, first, count)
        finally:
            os.close(number)
