"""What a process may take, set by itself before it does anything else."""

from __future__ import annotations

import os
import resource
from pathlib import Path

MOST_RESERVED = 2  # times the memory it may use: the parent watches that, this is behind it
FULL = 0.98  # of the limit: an allocation larger than the rest has failed, or soon will


def confine(memory_bytes: int, file_bytes: int = 0) -> None:
    """Limit this process's memory and the files it writes; it leaves no core file."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def is_full(pid: int) -> bool:
    """Whether a process has reserved as much memory as `confine` lets it.

    What fails then is rarely a MemoryError: libraries call it a SystemError, an ImportError, or
    try for ever.
    """
    limit, _ = resource.prlimit(pid, resource.RLIMIT_DATA)
    reserved = int(Path(f"/proc/{pid}/statm").read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    return limit != resource.RLIM_INFINITY and reserved >= FULL * limit


def allow_cpu(seconds: int) -> None:
    """Let this process take so much processor time from now on, then end by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
