"""A whole Tiebreak as a user runs it, and ways to kill parts of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

TIEBREAK = (str(Path(sys.executable).with_name("tiebreak")),)
ROOT = Path(__file__).parents[2]
READY_SECONDS = 120


class Stack:
    """`tiebreak up` on a folder of its own; `prepare` puts boston311 in by rules alone."""

    def __init__(self, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tiebreak-faults-"))
        self.folder.chmod(0o755)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TIEBREAK_")},
            "TIEBREAK_DATA_DIR": str(self.folder / "data"),
            "TIEBREAK_API__PORT": "0",
            "TIEBREAK_API__WORKERS": "2",
            **environment,
        }
        self._up: subprocess.Popen[bytes] | None = None
        self.token = ""

    def start(self) -> None:
        """Start everything and wait until it is ready."""
        with (self.folder / "up.log").open("ab") as log:
            self._up = subprocess.Popen(
                [*TIEBREAK, "up"], env=self._environment, cwd=ROOT, stdout=log, stderr=log
            )

    def prepare(self) -> None:
        """Put a workflow into production and make a key."""
        self.cli("keys", "create", "--person", "approver", "--role", "approver")
        self.cli("workflow", "load", "workflows/boston311", "--reason", "test")
        self.cli(
            *("release", "install", "boston311", "--model", "none"),
            *("--approved-by", "approver", "--reason", "test"),
        )
        made = self.cli("keys", "create", "--person", "client", "--role", "service")
        self.token = made["key"]

    def cli(self, *words: str) -> Any:
        """What a command answers with --json."""
        done = subprocess.run(
            [*TIEBREAK, *words, "--json"], env=self._environment, cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, (words, done.stdout.decode(), done.stderr.decode())
        return json.loads(done.stdout)

    def url(self) -> str:
        """Where the API listens, once it is ready."""
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with suppress(AssertionError, httpx.HTTPError):
                url = self.cli("status")["url"]
                if url and httpx.get(f"{url}/readyz").status_code == 200:
                    return url
            time.sleep(0.2)
        raise AssertionError((self.folder / "up.log").read_text())

    def parts(self, name: str) -> list[int]:
        """The process ids of the running parts whose name starts so."""
        parts = self.cli("status")["parts"]
        return [p["pid"] for p in parts if p["part"].startswith(name) and p["pid"]]

    def kill_worker(self) -> None:
        """kill -9 one API worker."""
        _kill(self.parts("api")[:1])

    def kill_postgres(self) -> None:
        """kill -9 the database server and every process of it."""
        _kill(self.parts("postgres"))

    def kill_valkey(self) -> None:
        """kill -9 the task queue."""
        _kill(self.parts("valkey"))

    def kill_supervisor(self) -> None:
        """kill -9 the supervisor, then start anew."""
        assert self._up is not None
        _kill([self._up.pid])
        self._up.wait()
        self.start()

    def kill_everything(self) -> None:
        """kill -9 all of it at once, then start anew."""
        assert self._up is not None
        _kill([self._up.pid, *self.parts("")])
        self._up.wait()
        self.start()

    def close(self) -> None:
        """Stop everything and remove the folder."""
        with suppress(AssertionError):
            self.cli("down")
        if self._up is not None and self._up.poll() is None:
            self._up.kill()
            self._up.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _kill(pids: list[int]) -> None:
    processes = [process for pid in pids if (process := _process(pid)) is not None]
    family = [child for p in processes for child in [p, *p.children(recursive=True)]]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None
