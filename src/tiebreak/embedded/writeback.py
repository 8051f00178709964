"""Pages on their way to the disk: what changed in a second, not all of half a minute at once.

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

Begin = Callable[[int], None]

_WRITE = 2  # SYNC_FILE_RANGE_WRITE of Linux


class Writeback:
    """Lets the system begin to write what changed in the files of a folder's folders.

    It neither waits for the disk nor makes anything durable; that is what checkpoints are for.
    """

    def __init__(self, folder: Path, begin: Begin) -> None:
        self._folder = folder
        self._begin = begin
        self._seen: dict[str, int] = {}  # by path, when it was changed

    @classmethod
    def of(cls, folder: Path) -> Writeback | None:
        """The same; None where the system has no call for it."""
        call = getattr(ctypes.CDLL(None), "sync_file_range", None)
        if call is None:
            return None
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
        return cls(folder, lambda number: call(number, 0, 0, _WRITE))

    def look(self) -> int:
        """Begin with what changed since the last look; how many files that are.

        Raises OSError when the folder cannot be read.
        """
        seen, self._seen = self._seen, {}
        begun = 0
        for database in os.scandir(self._folder):
            for entry in os.scandir(database):
                if not entry.is_file(follow_symlinks=False):
                    continue
                with suppress(FileNotFoundError):  # gone meanwhile
                    moment = self._seen[entry.path] = entry.stat().st_mtime_ns
                    if seen.get(entry.path) != moment:
                        self._let_begin(entry.path)
                        begun += 1
        return begun

    def _let_begin(self, path: str) -> None:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            self._begin(number)
        finally:
            os.close(number)
