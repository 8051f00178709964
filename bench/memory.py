"""Peak memory of a process and all its descendants while something runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress

import psutil

from tiebreak.embedded.stack import Services

EVERY_SECONDS = 2.0  # looking costs what is measured: it walks the page tables
MIB = 1 << 20


class Peak:
    """The largest sum of proportional set sizes that was seen, in MiB.

    A proportional set size shares the pages that processes have in common between them, so that
    their sum counts each page once.
    """

    mib: float = 0.0

    def look(self, pids: Iterable[int]) -> None:
        """Measure once."""
        total = 0
        for process in _families(pids):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        self.mib = round(max(self.mib, total / MIB), 1)


@contextmanager
def watched(*pids: int) -> Generator[Peak]:
    """Watch these processes and their descendants for as long as the block runs."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(EVERY_SECONDS):
            peak.look(pids)

    thread = threading.Thread(target=watch, daemon=True)
    peak.look(pids)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def database_pids(services: Services) -> tuple[int, int]:
    """Whom to watch where this process works with its own PostgreSQL: both."""
    assert services.postgres is not None
    return os.getpid(), services.postgres.pid


def _families(pids: Iterable[int]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found |= {process, *process.children(recursive=True)}
    return found
