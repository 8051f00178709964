"""The real product as a process: `tiebreak up` on a folder, and other commands on the same one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STOP_SECONDS = 90
TIEBREAK = (sys.executable, "-c", "from tiebreak.cli import main; main()")


@dataclass(frozen=True)
class Running:
    """A running `tiebreak up`: where it serves, and how long it took to be ready."""

    url: str
    pid: int
    status: str
    seconds: float

    @property
    def port(self) -> int:
        """The API's port."""
        return urlsplit(self.url).port or 0


def environment(data_dir: Path, workers: int) -> dict[str, str]:
    """The environment of commands on this folder, whatever the caller's own settings are."""
    foreign = ("TIEBREAK_", "DATABASE_", "REDIS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "TIEBREAK_DATA_DIR": str(data_dir),
        "TIEBREAK_API__PORT": "0",
        "TIEBREAK_API__WORKERS": str(workers),
    }


@contextmanager
def up(data_dir: Path, workers: int) -> Generator[Running]:
    """Run `tiebreak up` for as long as the block runs."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [*TIEBREAK, "up", "--json"],
        env=environment(data_dir, workers),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        seconds = round(time.monotonic() - begun, 2)
        yield Running(told["url"], process.pid, told["status"], seconds)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tiebreak(data_dir: Path, workers: int, *arguments: str) -> dict[str, Any]:
    """Run another command with --json; what it tells."""
    done = subprocess.run(
        [*TIEBREAK, *arguments, "--json"],
        env=environment(data_dir, workers),
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)
