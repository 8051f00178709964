"""Kinds of faults: what each does to a whole Tiebreak, and how it goes away again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import asyncpg
from tests.faults import clocks
from tests.faults.clocks import Clock
from tests.faults.stacks import Stack
from tests.faults.volumes import Volume
from tests.faults.wires import Rule, Wire


class Site(Stack):
    """A whole Tiebreak on a disk and by clocks of its own, where the machine allows it."""

    def __init__(self) -> None:
        # Batches large enough to go by COPY.
        super().__init__(TIEBREAK_API__BATCH_MAX="512")
        self.volume = None if Volume.obstacle() else Volume(self.data)
        self.clocks: tuple[Clock, ...] = ()
        self.cuts: Counter[str] = Counter()  # connections, by rule
        self.uncut: Counter[str] = Counter()  # rounds in which none was, by rule
        if clocks.obstacle() is None:
            library = clocks.library(self.folder)
            programs, database = Clock(library, "programs"), Clock(library, "database")
            self.clocks = (programs, database)
            self.up_environment = {
                **programs.environment,
                "PYTHONPATH": str(clocks.postgres_with(database, self.folder)),
            }

    def close(self) -> None:
        """Stop everything and remove folder and disk."""
        if self.volume is not None:
            self.volume.thaw()
            self.volume.empty()
        self.stop()
        if self.volume is not None:
            self.volume.close()
        super().close()


class Fault(ABC):
    """One kind of fault; each round uses one of its own."""

    def obstacle(self) -> str | None:
        """Why it cannot be inflicted by this user on this machine; None where it can."""
        return None

    @abstractmethod
    def inflict(self, site: Site, chance: random.Random) -> None:
        """Let it happen; it may go on until it is healed."""

    @abstractmethod
    def heal(self, site: Site) -> None:
        """Take it away, as an operator or the world outside does; Tiebreak mends itself."""


class Killed(Fault):
    """kill -9; who kills the supervisor starts it again, as an init system does."""

    def __init__(self, kill: Callable[[Stack], None]) -> None:
        self._kill = kill

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Kill it."""
        self._kill(site)

    def heal(self, site: Site) -> None:
        """Start what nobody supervises."""
        if not site.is_up():
            site.start()


class Frozen(Fault):
    """A process stands still for a while and goes on: a machine under pressure, or moved."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._pids: list[int] = []

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Stop one of them."""
        self._pids = site.parts(self._part)[:1]
        self._send(signal.SIGSTOP)

    def heal(self, site: Site) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class DiskFault(Fault):
    """A fault of the disk that holds database, queue, logs and artifacts."""

    def obstacle(self) -> str | None:
        """A disk of its own is needed."""
        return Volume.obstacle()


class DiskFull(DiskFault):
    """There is no space left."""

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Take the space."""
        assert site.volume is not None
        site.volume.fill()

    def heal(self, site: Site) -> None:
        """Give it back."""
        assert site.volume is not None
        site.volume.empty()


class DiskStalled(DiskFault):
    """The disk does not answer for a while."""

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Let all writers wait."""
        assert site.volume is not None
        site.volume.freeze()

    def heal(self, site: Site) -> None:
        """Let them go on."""
        assert site.volume is not None
        site.volume.thaw()


class DiskSlow(DiskFault):
    """The disk answers haltingly: most of the time it is busy with something else."""

    BUSY_SECONDS, FREE_SECONDS = 0.08, 0.02

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Let writers wait again and again."""
        self._thread = threading.Thread(target=self._halt, args=(site.volume,))
        self._thread.start()

    def heal(self, site: Site) -> None:
        """Let them go on."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _halt(self, volume: Volume) -> None:
        while not self._stop.is_set():
            volume.freeze()
            try:
                time.sleep(self.BUSY_SECONDS)
            finally:
                volume.thaw()
            time.sleep(self.FREE_SECONDS)


class Cut(Fault):
    """Connections to the database are lost at a chosen place."""

    LONGEST_SECONDS = 20.0

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._wire = Wire(rule)

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Put a wire in, let everybody connect anew, and wait until some were cut, or too long."""
        server = site.server()
        sockets = site.data / "services" / "sockets"
        self._wire.put_in(sockets, server.port, chance)
        asyncio.run(_disconnect(server.url("postgres")))
        end = time.monotonic() + self.LONGEST_SECONDS
        while not self._wire.cuts and time.monotonic() < end:
            time.sleep(0.05)

    def heal(self, site: Site) -> None:
        """Take the wire out."""
        self._wire.take_out()
        site.cuts += self._wire.cuts
        site.uncut[self._rule] += not self._wire.cuts


async def _disconnect(url: str) -> None:
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    finally:
        await admin.close()


class ClockStep(Fault):
    """The time of day jumps, and jumps back when it is healed."""

    SECONDS = (2, 30, 30, 300, 7_200)

    def __init__(self, *which: int) -> None:
        self._which = which

    def obstacle(self) -> str | None:
        """Clocks that can be set are needed."""
        return clocks.obstacle()

    def inflict(self, site: Site, chance: random.Random) -> None:
        """Step forth or back."""
        seconds = chance.choice(self.SECONDS) * chance.choice((-1, 1))
        for number in self._which:
            site.clocks[number].step(seconds)

    def heal(self, site: Site) -> None:
        """Step to the right time."""
        for number in self._which:
            site.clocks[number].step(0)


KINDS: dict[str, Callable[[], Fault]] = {
    "worker": lambda: Killed(Stack.kill_worker),
    "postgres": lambda: Killed(Stack.kill_postgres),
    "valkey": lambda: Killed(Stack.kill_valkey),
    "supervisor": lambda: Killed(Stack.kill_supervisor),
    "everything": lambda: Killed(Stack.kill_everything),
    "frozen_worker": lambda: Frozen("api"),
    "frozen_postgres": lambda: Frozen("postgres"),
    "disk_full": DiskFull,
    "disk_stalled": DiskStalled,
    "disk_slow": DiskSlow,
    "cut_copy": lambda: Cut("copy"),
    "cut_answer": lambda: Cut("answer"),
    "cut_anywhere": lambda: Cut("anywhere"),
    "clock_of_programs": lambda: ClockStep(0),
    "clock_of_database": lambda: ClockStep(1),
    "clock_of_machine": lambda: ClockStep(0, 1),
}
