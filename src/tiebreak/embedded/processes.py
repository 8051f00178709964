"""Server processes on this machine: which one works in a folder, and how it is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 0.02


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def exists(pid: int) -> bool:
    """Whether the process is there at all, alive or a zombie that nobody has collected yet."""
    return Path(f"/proc/{pid}").exists()


def works_in(pid: int, folder: Path, program: str) -> bool:
    """Whether the live process `pid` is `program` with `folder` as its working directory.

    A pid alone proves nothing: after a crash or a reboot another process may have it.
    """
    try:
        directory = os.readlink(f"/proc/{pid}/cwd")
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return False
    same = directory == str(folder.resolve())
    return same and name == program[:15] and is_alive(pid)


def working_in(folder: Path, program: str) -> Iterator[int]:
    """The live processes of `program` whose working directory is `folder`, lowest pid first."""
    for pid in sorted(int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if works_in(pid, folder, program):
            yield pid


def wait_gone(pid: int, timeout_seconds: float) -> bool:
    """Wait until the process has ended; False when it still lives after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while is_alive(pid):
        reap(pid)
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def stop(pid: int, first: signal.Signals, timeout_seconds: float) -> bool:
    """Ask the process to end with `first`, kill it after the timeout; False when it had to be."""
    send(pid, first)
    if wait_gone(pid, timeout_seconds):
        return True
    send(pid, signal.SIGKILL)
    wait_gone(pid, 10)
    return False


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone already is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def reap(pid: int) -> None:
    """Collect the process's exit status if it is an ended child of ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
