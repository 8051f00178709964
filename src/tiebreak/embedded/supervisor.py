"""Keeps everything of one data folder running: API workers, the task worker, and the servers.

Supervision runs in a thread of its own, so that whoever started it may do other work. Children
belong to that thread: when this process ends, however it ends, they end too. The servers stay
and are adopted at the next start.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tiebreak.embedded import postgres, readiness
from tiebreak.embedded.binaries import EmbeddedFailed
from tiebreak.embedded.children import TASKS_DRAIN_SECONDS, Child, Program
from tiebreak.embedded.processes import is_alive
from tiebreak.embedded.readiness import Readiness
from tiebreak.embedded.record import Record, remove_record, write_record
from tiebreak.embedded.stack import (
    Note,
    Services,
    stack,
    start_services,
    without_own_addresses,
)
from tiebreak.embedded.state import State, is_free, locked
from tiebreak.embedded.writeback import Writeback
from tiebreak.errors import Conflict, TiebreakError
from tiebreak.settings import PLATFORM_NAMES, Settings
from tiebreak.supervised import headcount, inboxes

TICK_SECONDS = 0.1
SERVERS_EVERY_SECONDS = 1.0
WRITEBACK_SECONDS = 1.0
READY_SECONDS = 240.0
BACKLOG = 2048


class PortTaken(Conflict):
    """Another program listens on the API's port."""

    code = "port_taken"


class Supervisor:
    """Runs the programs of one data folder. Use it through `running`."""

    def __init__(self, services: Services, note: Note) -> None:
        self.services = services
        self._told = note
        self._trouble = ""
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._settings = services.settings
        self._listener = _listen(self._settings)
        self.host, self.port = self._settings.api.host, self._listener.getsockname()[1]
        self._headcount = headcount.create(self._settings.api.worker_count)
        self._inboxes = inboxes.create(self._settings.api.worker_count)
        self._children = [Child(program) for program in self._programs()]
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self._writer = threading.Thread(target=self._write_back, name="writeback", daemon=True)
        self._servers_at = 0.0
        self._is_record_old = False
        self._is_begun = False

    @property
    def url(self) -> str:
        """The API's address."""
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Begin to supervise."""
        shutil.rmtree(self._settings.data_dir / "metrics", ignore_errors=True)
        self._thread.start()
        if self.services.postgres is not None:
            self._writer.start()

    def wait_ready(self, timeout_seconds: float = READY_SECONDS) -> Readiness:
        """Wait until every worker is up and answers; what the API then says of itself.

        Raises EmbeddedFailed when that does not come to pass in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self._thread.is_alive():
            if self._is_begun:
                told = readiness.ask(self.host, self.port)
                if told.is_answered:
                    return told
            time.sleep(TICK_SECONDS)
        ends = [f"{c.program.name} {c.last_end}" for c in self._children if c.last_end]
        raise EmbeddedFailed(
            f"The API did not come up: {'; '.join(ends) or 'no worker answers'}.",
            hint=f"Look into {self._settings.data_dir / 'logs'}.",
        )

    def wait(self) -> None:
        """Wait for as long as everything is supervised; raises EmbeddedFailed when that ends."""
        self._thread.join()
        raise EmbeddedFailed("Supervision has ended by itself.", hint="Run `tiebreak up` again.")

    def stop(self) -> None:
        """End all children in order: the API answers what it has taken, then tasks finish."""
        self._stop.set()
        self._thread.join()

    def hurry(self) -> None:
        """Kill what `stop` is waiting for."""
        self._hurry.set()

    def _supervise(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            try:
                self._look()
            except OSError as error:  # a full disk, say: nothing ends for it, all is tried again
                self._tell_once(f"Supervision is hindered: {error}")
            else:
                self._trouble = ""
        self._listener.close()
        for number in (self._headcount, *self._inboxes):
            os.close(number)
        self._end(self._workers)
        self._end([child for child in self._children if not child.program.has_heartbeat])
        remove_record(self._settings.data_dir)

    def _look(self) -> None:
        self._watch_servers()
        for child in self._to_watch():
            if child.watch():
                self._is_record_old = True
                if child.process is None:
                    self._note(f"{child.program.name} {child.last_end}; it is started again")
        if self._is_record_old:
            self._write_record()
            self._is_record_old = False

    def _write_back(self) -> None:
        """In a thread of its own: to begin writing takes long where the disk is behind."""
        writeback = Writeback.of(postgres.tables(self._settings.data_dir))
        while writeback is not None and not self._stop.wait(WRITEBACK_SECONDS):
            with suppress(OSError):  # what cannot be written now can be later
                writeback.look()

    def _note(self, text: str) -> None:
        with suppress(OSError):  # it goes into a file on a full disk
            self._told(text)

    def _tell_once(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._note(trouble)
        self._trouble = trouble

    @property
    def _workers(self) -> list[Child]:
        return [child for child in self._children if child.program.has_heartbeat]

    def _to_watch(self) -> list[Child]:
        """The children; at first the API's only, which then starts in half the time."""
        self._is_begun = self._is_begun or all(child.is_up for child in self._workers)
        return self._children if self._is_begun else self._workers

    def _end(self, children: Sequence[Child]) -> None:
        begun = time.monotonic()
        for child in children:
            child.terminate()
        for child in children:
            while child.process is not None:
                is_late = time.monotonic() - begun > child.program.drain_seconds
                now = time.monotonic()
                child.wait_ended(now if is_late or self._hurry.is_set() else now + TICK_SECONDS)

    def _watch_servers(self) -> None:
        """Start a server again that has ended; the programs reconnect by themselves."""
        if time.monotonic() < self._servers_at:
            return
        self._servers_at = time.monotonic() + SERVERS_EVERY_SECONDS
        servers = (self.services.postgres, self.services.valkey)
        if all(server is None or is_alive(server.pid) for server in servers):
            return
        self._note("A server has ended; it is started again")
        try:
            self.services = start_services(
                without_own_addresses(self._settings, self.services), self._note
            )
        except TiebreakError as error:  # tried again in a second
            self._note(str(error))
            return
        if self.services.settings != self._settings:  # its port was taken meanwhile
            self._settings = self.services.settings
            for child, program in zip(self._children, self._programs(), strict=True):
                child.program = program
                child.terminate()

    def _programs(self) -> list[Program]:
        logs = self._settings.data_dir / "logs"
        environment = child_environment(self._settings, self.port)
        shared = (self._listener.fileno(), self._headcount, *self._inboxes)
        api = ("tiebreak.web.worker", "--fd", str(shared[0]), "--heartbeat-fd", "{heartbeat}")
        together = (
            *("--headcount-fd", str(self._headcount)),
            *("--inbox-fds", ",".join(map(str, self._inboxes))),
        )
        workers = [
            Program(
                name=f"api-{number}",
                arguments=(*api, *together, "--place", str(number - 1)),
                log=logs / f"api-{number}.log",
                environment=environment,
                file_numbers=shared,
                drain_seconds=self._settings.api.drain_seconds + 5,
            )
            for number in range(1, self._settings.api.worker_count + 1)
        ]
        data_dir = self._settings.data_dir
        return [*workers, _tasks(data_dir, environment), _candidates(data_dir, environment)]

    def _write_record(self) -> None:
        """Tell `tiebreak status` what runs."""
        record: Record = {
            "pid": os.getpid(),
            "host": self.host,
            "port": self.port,
            "programs": [
                {
                    "name": child.program.name,
                    "pid": child.pid,
                    "is_up": child.is_up,
                    "restarts": child.restarts,
                    "last_end": child.last_end,
                }
                for child in self._children
            ],
        }
        write_record(self._settings.data_dir, record)


@contextmanager
def running(settings: Settings, note: Note = lambda _text: None) -> Generator[Supervisor]:
    """The whole product for as long as the block runs: servers, API workers, tasks.

    Raises AlreadyRunning when another process does that for this data folder.
    """
    with locked(settings.data_dir), stack(settings, note) as services:
        supervisor = Supervisor(services, note)
        supervisor.start()
        try:
            yield supervisor
        finally:
            note("Finishing open requests and tasks")
            supervisor.stop()


def child_environment(settings: Settings, port: int) -> dict[str, str]:
    """The environment of supervised programs: the app role's settings, never the owner's."""
    addresses = {
        "DATABASE_URL": settings.database.url,
        "TIEBREAK_DATABASE__READONLY_URL": settings.database.readonly_url,
        "TIEBREAK_MLFLOW__TRACKING_URI": settings.mlflow.tracking_uri,
        "REDIS_URL": settings.redis.url,
    }
    ours = {f"TIEBREAK_{'__'.join(place).upper()}" for place in PLATFORM_NAMES.values()}
    inherited = {k: v for k, v in os.environ.items() if k not in {*PLATFORM_NAMES, *ours}}
    return {
        **inherited,
        **{name: url.get_secret_value() for name, url in addresses.items() if url},
        "TIEBREAK_DATA_DIR": str(settings.data_dir),
        "TIEBREAK_API__PORT": str(port),
        "NUMBA_CACHE_DIR": str(settings.data_dir / "cache" / "numba"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _tasks(data_dir: Path, environment: dict[str, str]) -> Program:
    arguments = ("celery", "-A", "tiebreak.tasks.app", "worker", "-B", "--pool", "threads")
    return Program(
        name="tasks",
        arguments=(*arguments, "--loglevel", "WARNING"),
        log=data_dir / "logs" / "tasks.log",
        environment=environment,
        drain_seconds=TASKS_DRAIN_SECONDS,
    )


def _candidates(data_dir: Path, environment: dict[str, str]) -> Program:
    return Program(
        name="candidates",
        arguments=("tiebreak.embedded.candidates",),
        log=data_dir / "logs" / "candidates.log",
        environment=environment,
    )


def _listen(settings: Settings) -> socket.socket:
    """The API's listening socket, which all workers share.

    When no port was asked for and the usual one is taken, another free one is remembered.
    """
    api = settings.api
    state, port = State(settings.data_dir), api.port
    if port and "port" not in api.model_fields_set and not is_free(port):
        port = state.port("api_port")
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        return socket.create_server((api.host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortTaken(
            f"The API cannot listen on {api.host} port {port}: {error.strerror}.",
            hint="Set TIEBREAK_API__PORT to a free port, or to 0 for any.",
        ) from error
