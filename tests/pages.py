"""Pages of files that the system keeps in memory and has not written to the disk."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

import pytest

CACHESTAT = 451  # the number of the call, since Linux 6.5
WAIT_SECONDS = 15.0  # less than the 30 after which the system writes by itself


def dirty_pages(path: Path) -> int:
    """How many of the file's pages are in memory alone; skips where the system cannot say."""
    whole, counts = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    number = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None).syscall(CACHESTAT, number, whole, counts, 0):
            pytest.skip("this system cannot say which pages of a file are not on the disk")
    finally:
        os.close(number)
    return counts[1]


def write_pages(path: Path) -> None:
    """Write a file whose pages are in memory alone; skips where none ever are."""
    path.write_bytes(os.urandom(4 << 20))
    if not dirty_pages(path):
        pytest.skip("this file system keeps no page in memory alone")


def are_written(path: Path) -> bool:
    """Whether all its pages are on the disk soon, before the system writes them by itself."""
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        if not dirty_pages(path):
            return True
        time.sleep(0.05)
    return False
