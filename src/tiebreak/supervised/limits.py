"""What a process may take, set by itself before it does anything else."""

from __future__ import annotations

import resource


def confine(memory_bytes: int, file_bytes: int = 0) -> None:
    """Limit this process's memory and the files it writes; it leaves no core file."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def allow_cpu(seconds: int) -> None:
    """Let this process take so much processor time from now on, then end by SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
