"""One supervised process: started, watched by its heartbeat, started again when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS = 180.0  # until the first heartbeat: a cold start compiles
HANG_SECONDS = 20.0  # between heartbeats
PAUSE_SECONDS = 5.0  # between two looks; after a longer one, silence proves nothing
STEADY_SECONDS = 60.0  # after which earlier failures are forgotten
FIRST_DELAY_SECONDS = 0.5
MOST_DELAY_SECONDS = 30.0
LOG_BYTES = 20_000_000
HUNG = "killed: it gave no sign of life"
TASKS_DRAIN_SECONDS = 30.0  # of the task worker, to finish what it has begun


@dataclass(frozen=True)
class Program:
    """What to run: a module with arguments; `{heartbeat}` in one is replaced by a pipe's number."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]
    file_numbers: tuple[int, ...] = ()
    drain_seconds: float = 20.0
    hang_seconds: float | None = None  # between heartbeats; None: HANG_SECONDS

    @property
    def has_heartbeat(self) -> bool:
        """Whether the process tells that it lives."""
        return any("{heartbeat}" in argument for argument in self.arguments)


@dataclass
class Child:
    """A program's process now, and how often it had to be started again."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    last_end: str = ""
    _failures: int = 0
    _started: float = 0.0
    _not_before: float = 0.0
    _watched: float = 0.0
    _heartbeat: int | None = None
    _last_beat: float | None = field(default=None)

    @property
    def pid(self) -> int | None:
        """The pid of the running process."""
        return self.process.pid if self.process else None

    @property
    def is_up(self) -> bool:
        """Whether the process runs and, if it has a heartbeat, has told so."""
        if self.process is None:
            return False
        return not self.program.has_heartbeat or self._last_beat is not None

    def watch(self) -> bool:
        """Start, restart or kill as needed; True when something changed.

        After a pause it is taken as alive: a machine that stood still stopped its heart as well.
        """
        now = time.monotonic()
        is_paused, self._watched = now - self._watched > PAUSE_SECONDS, now
        if self.process is None:
            return now >= self._not_before and self._start(now)
        was_up = self.is_up
        self._read_heartbeat(now)
        if is_paused:
            self._excuse(now)
        code = self.process.poll()
        if code is None and self._is_hung(now):
            self.process.kill()
            code = self.process.wait()
            self.last_end = HUNG
        elif code is not None:
            self.last_end = ended(code)
        if code is None:
            return self.is_up != was_up
        self._failures = 0 if now - self._started > STEADY_SECONDS else self._failures + 1
        delay = min(FIRST_DELAY_SECONDS * 2 ** max(self._failures - 1, 0), MOST_DELAY_SECONDS)
        self._not_before = now + delay
        self._forget()
        return True

    def terminate(self) -> None:
        """Ask the process to finish its work and end."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def wait_ended(self, deadline: float) -> None:
        """Wait for the end until the deadline (of `time.monotonic`), then kill."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._forget()

    def _start(self, now: float) -> bool:
        """Start the process; when that raises OSError, the next look tries again after a pause."""
        self._not_before = now + FIRST_DELAY_SECONDS
        self.program.log.parent.mkdir(parents=True, exist_ok=True)
        _rotate(self.program.log)
        ours, theirs = _pipe() if self.program.has_heartbeat else (None, None)
        try:
            self.process = self._opened(theirs)
        except OSError:
            if ours is not None:
                os.close(ours)
            raise
        finally:
            if theirs is not None:
                os.close(theirs)
        self._heartbeat = ours
        self.restarts += self._started > 0
        self._started, self._last_beat = now, None
        return True

    def _opened(self, heartbeat: int | None) -> subprocess.Popen[bytes]:
        program, own = self.program, [] if heartbeat is None else [heartbeat]
        words = [part.replace("{heartbeat}", str(heartbeat)) for part in program.arguments]
        start = (sys.executable, "-P", "-m", "tiebreak.supervised.start", str(os.getpid()))
        with program.log.open("ab") as log:
            return subprocess.Popen(
                [*start, *words],
                env=dict(program.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[*program.file_numbers, *own],
                start_new_session=True,  # Ctrl-C is for the supervisor, who stops it in order
            )

    def _read_heartbeat(self, now: float) -> None:
        if self._heartbeat is None:
            return
        try:
            if os.read(self._heartbeat, 65536):
                self._last_beat = now
        except BlockingIOError:
            return

    def _excuse(self, now: float) -> None:
        if self._last_beat is None:
            self._started = now
        else:
            self._last_beat = now

    def _is_hung(self, now: float) -> bool:
        if not self.program.has_heartbeat:
            return False
        if self._last_beat is None:
            return now - self._started > START_SECONDS
        return now - self._last_beat > (self.program.hang_seconds or HANG_SECONDS)

    def _forget(self) -> None:
        self.process, self._last_beat = None, None
        if self._heartbeat is not None:
            os.close(self._heartbeat)
            self._heartbeat = None


def _pipe() -> tuple[int, int]:
    """A pipe whose ends wait for nobody."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def ended(code: int) -> str:
    """How a process ended that gave this code."""
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _rotate(log: Path) -> None:
    """Keep one older log beside the present one."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
