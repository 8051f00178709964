"""A whole Tiebreak as a user runs it, and ways to kill parts of it."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.faults import boston

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.embedded import postgres, valkey
from tiebreak.embedded.postgres import PostgresServer
from tiebreak.embedded.record import RECORD, Record, read_record
from tiebreak.settings import Keyring, Settings

LOOKS = 30  # of new connections, which the workers take by chance
TIEBREAK = (str(Path(sys.executable).with_name("tiebreak")),)
ROOT = Path(__file__).parents[2]
READY_SECONDS = 600
POLL_SECONDS = 0.1


class Stack:
    """`tiebreak up` on a folder of its own; `prepare` puts boston311 in, with a model."""

    def __init__(self, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tiebreak-faults-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TIEBREAK_")},
            "TIEBREAK_DATA_DIR": str(self.data),
            "TIEBREAK_API__PORT": "0",
            "TIEBREAK_API__WORKERS": "2",
            **environment,
        }
        self.up_environment: dict[str, str] = {}  # of `tiebreak up` and what it starts alone
        self._up: subprocess.Popen[bytes] | None = None
        self.token = ""

    def start(self) -> None:
        """Start everything; `url` waits until it is ready."""
        with (self.folder / "up.log").open("ab") as log:
            self._up = subprocess.Popen(
                [*TIEBREAK, "up"],
                env={**self._environment, **self.up_environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def start_prepared(self) -> None:
        """Start everything, prepare it and wait until every worker serves."""
        self.start()
        self._wait(lambda: self.record() is not None)
        self.prepare()
        self._wait(lambda: all(self._is_ready() for _ in range(LOOKS)))

    def prepare(self) -> None:
        """Put a workflow into production and make a key."""
        self.cli("keys", "create", "--person", "approver", "--role", "approver")
        self.may_release()
        self.cli("workflow", "load", str(boston.FOLDER), "--reason", "test")
        self.cli(
            *("release", "install", boston.NAME, "--model", self._model(), "--without-gates"),
            *("--approved-by", "approver", "--reason", "test"),
        )
        made = self.cli("keys", "create", "--person", "client", "--role", "service")
        self.token = made["key"]

    def _model(self) -> str:
        """The digest of a signed model in this place's artifacts."""
        settings = Settings(data_dir=self.data)
        signed = make_bundle(boston.model(), BundleKeys.of(Keyring.load(settings)))
        return ArtifactStore.of(settings).put_bundle(signed)

    def may_release(self) -> None:
        """Give the account that runs commands the role that releases."""
        self.cli("keys", "create", "--person", getpass.getuser(), "--role", "ml_engineer")

    def cli(self, *words: str) -> Any:
        """What a command answers with --json."""
        done = subprocess.run(
            [*TIEBREAK, *words, "--json"], env=self._environment, cwd=ROOT, capture_output=True
        )
        assert done.returncode == 0, (words, done.stdout.decode(), done.stderr.decode())
        return json.loads(done.stdout)

    def record(self) -> Record | None:
        """What the running supervisor wrote of itself."""
        with suppress(OSError, ValueError):
            return read_record(self.data)
        return None

    def address(self) -> str | None:
        """Where the API listens now, ready or not."""
        with suppress(OSError, ValueError):
            record: Record = json.loads((self.data / RECORD).read_bytes())
            return f"http://{record['host']}:{record['port']}"
        return None

    def url(self) -> str:
        """Where the API listens, once it is ready."""
        self._wait(self._is_ready)
        return self.address() or ""

    def _is_ready(self) -> bool:
        """Whether the worker that answers is ready."""
        with suppress(httpx.HTTPError):
            url = self.address()
            return url is not None and httpx.get(f"{url}/readyz").status_code == 200
        return False

    def is_up(self) -> bool:
        """Whether the supervisor runs."""
        return self._up is not None and self._up.poll() is None

    def parts(self, name: str) -> list[int]:
        """The process ids of the running parts whose name starts so."""
        record = self.record()
        programs = [] if record is None else record["programs"]
        servers = {"postgres": postgres.find(self.data), "valkey": valkey.find(self.data)}
        parts = [*servers.items(), *((each["name"], each["pid"]) for each in programs)]
        return [pid for part, pid in parts if part.startswith(name) and pid]

    def server(self) -> PostgresServer:
        """The running database server, by its loopback address."""
        lines = (self.data / "services" / "postgres" / "postmaster.pid").read_text().splitlines()
        password = (self.data / "secrets" / "superuser.password").read_text().strip()
        return PostgresServer(int(lines[0]), int(lines[3]), None, password, adopted=True)

    def kill_worker(self) -> None:
        """kill -9 one API worker."""
        kill(self.parts("api")[:1])

    def kill_postgres(self) -> None:
        """kill -9 the database server and every process of it."""
        kill(self.parts("postgres"))

    def kill_valkey(self) -> None:
        """kill -9 the task queue."""
        kill(self.parts("valkey"))

    def kill_supervisor(self) -> None:
        """kill -9 the supervisor, and what dies with it; `start` begins anew."""
        assert self._up is not None
        kill([self._up.pid])
        self._up.wait()

    def kill_everything(self) -> None:
        """kill -9 all of it at once; `start` begins anew."""
        assert self._up is not None
        kill([self._up.pid, *self.parts("")])
        self._up.wait()

    def last_words(self) -> str:
        """The ends of all logs, for who must find out what went wrong."""
        logs = [self.folder / "up.log", *self.data.glob("logs/*.log")]
        logs += [*self.data.glob("services/logs/*.log")]
        ends = [f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs]
        return "\n".join(ends)

    def stop(self) -> None:
        """Stop everything."""
        with suppress(AssertionError):
            self.cli("down")
        if self._up is not None and self._up.poll() is None:
            self._up.kill()
            self._up.wait()

    def close(self) -> None:
        """Stop everything and remove the folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + READY_SECONDS
        while not holds():
            assert self.is_up(), f"it has ended by itself\n{self.last_words()}"
            assert time.monotonic() < end, f"it is not ready\n{self.last_words()}"
            time.sleep(POLL_SECONDS)


def kill(pids: list[int]) -> None:
    """kill -9 these processes and all they have started, all at once."""
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
