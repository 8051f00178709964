"""A real PostgreSQL of our own: initialised once, started, adopted after a crash, stopped."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tiebreak.embedded import processes
from tiebreak.embedded.binaries import EmbeddedFailed, Home
from tiebreak.embedded.state import State

SUPERUSER = "postgres"
SOCKET_PATH_LIMIT = 107  # bytes, of `struct sockaddr_un`
START_TIMEOUT_SECONDS = 300  # crash recovery of a large write-ahead log takes its time

DURABLE: Mapping[str, str] = {
    "shared_buffers": "128MB",  # with what follows: pages go to the disk bit by bit
    "bgwriter_delay": "20ms",
    "bgwriter_lru_maxpages": "500",
    "bgwriter_lru_multiplier": "10",
    "bgwriter_flush_after": "256kB",
    "backend_flush_after": "256kB",
    "autovacuum_vacuum_cost_delay": "5ms",
    "max_connections": "120",
    "max_locks_per_transaction": "256",  # a query over many years locks many partitions
    "wal_buffers": "16MB",
    "min_wal_size": "1GB",  # files kept to be written again: a new one holds all commits up, 50 ms
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "default_statistics_target": "25",  # plans look keys up; 100 costs four times as much
    "jit": "off",  # compiling costs more than these short queries take
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
FORGETFUL: Mapping[str, str] = {
    **DURABLE,
    "shared_buffers": "64MB",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@dataclass(frozen=True)
class PostgresServer:
    """A running server: where it listens and how to log in."""

    pid: int
    port: int
    socket_folder: Path | None
    password: str
    adopted: bool

    def url(self, database: str, user: str = SUPERUSER, password: str | None = None) -> str:
        """The address of a database; over the Unix socket where there is one."""
        login = f"{quote(user, safe='')}:{quote(password or self.password, safe='')}"
        if self.socket_folder is None:
            return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"
        place = quote(str(self.socket_folder), safe="")
        return f"postgresql://{login}@/{database}?host={place}&port={self.port}"


def start(data_dir: Path, password: str, settings: Mapping[str, str] = DURABLE) -> PostgresServer:
    """Start the data folder's server, or adopt the one that still runs there.

    The cluster is created at first use, with `password` for the superuser.
    Raises EmbeddedMissing or EmbeddedFailed.
    """
    home, state = Home.of(data_dir), State(data_dir)
    home.folder()
    cluster = home.path / "postgres"
    _initialise(home, cluster, password, is_durable=settings.get("fsync") != "off")
    running = find(data_dir)
    pid = running or _launch(home, cluster, state, settings)
    _wait_ready(home, cluster, pid)
    lines = _pid_file(cluster)
    folder = lines[4] if len(lines) > 4 else ""
    return PostgresServer(
        pid=pid,
        port=int(lines[3]),
        socket_folder=Path(folder) if folder else None,
        password=password,
        adopted=running is not None,
    )


def is_initialised(data_dir: Path) -> bool:
    """Whether the data folder has a cluster already."""
    return (Home.of(data_dir).path / "postgres").exists()


def tables(data_dir: Path) -> Path:
    """Where the data folder's server has its tables, a folder for each database."""
    return Home.of(data_dir).path / "postgres" / "base"


def find(data_dir: Path) -> int | None:
    """The pid of the data folder's running server, or None.

    A pid file whose process is another program or a zombie is removed: a new server would take
    it for a running one, and nothing else would remove it.
    """
    cluster = Home.of(data_dir).path / "postgres"
    lines = _pid_file(cluster)
    if lines and processes.works_in(int(lines[0]), cluster, "postgres"):
        return int(lines[0])
    if lines and processes.exists(int(lines[0])):
        _wait_orphans(cluster)
        for lock in (cluster / "postmaster.pid", *cluster.parent.glob("sockets/.s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)
    return None


def stop(data_dir: Path, timeout_seconds: float = 30) -> bool:
    """Stop the data folder's server, if it runs; open transactions are rolled back."""
    pid = find(data_dir)
    if pid is None:
        return False
    processes.stop(pid, signal.SIGINT, timeout_seconds)
    return True


def _initialise(home: Home, cluster: Path, password: str, *, is_durable: bool) -> None:
    if cluster.exists():
        return
    draft = home.path / f".postgres.{secrets.token_hex(4)}"
    word = home.folder("initdb") / "password"
    word.touch(mode=0o600)
    word.write_text(password)
    home.account.own(word)
    command = [
        *(str(home.postgres_programs() / "initdb"), "-D", str(draft), "-U", SUPERUSER),
        *("--auth=scram-sha-256", f"--pwfile={word}", "--encoding=UTF8", "--locale=C"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *(() if is_durable else ("--no-sync",)),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=home.path,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
            **home.account.popen_options(),
        )
        if done.returncode:
            raise EmbeddedFailed(
                f"PostgreSQL's data folder was not created: {done.stderr.strip()}",
                hint="It needs disk space, and a user that the system knows by name.",
            )
        draft.rename(cluster)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(word.parent, ignore_errors=True)


def _launch(home: Home, cluster: Path, state: State, settings: Mapping[str, str]) -> int:
    port = state.port("postgres_port")
    sockets = home.folder("sockets")
    is_short = len(os.fsencode(sockets / f".s.PGSQL.{port}.lock")) <= SOCKET_PATH_LIMIT
    options = {
        **settings,
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": f'"{sockets}"' if is_short else "",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with _log(home).open("ab") as log:
        server = subprocess.Popen(
            [str(home.postgres_programs() / "postgres"), "-D", str(cluster), *arguments],
            cwd=home.path,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the supervisor, who stops it in order
            **home.account.popen_options(),
        )
    return server.pid


def _wait_ready(home: Home, cluster: Path, pid: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        processes.reap(pid)
        if not processes.is_alive(pid):
            raise EmbeddedFailed(f"PostgreSQL stopped while starting: {_last_words(home)}")
        lines = _pid_file(cluster)
        if len(lines) > 7 and int(lines[0]) == pid and lines[7] == "ready":
            return
        if time.monotonic() > deadline:
            raise EmbeddedFailed(f"PostgreSQL is not ready yet: {_last_words(home)}")
        time.sleep(processes.POLL_SECONDS)


def _wait_orphans(cluster: Path, timeout_seconds: float = 30) -> None:
    """Wait until the children of a killed server have noticed and ended."""
    deadline = time.monotonic() + timeout_seconds
    while any(processes.working_in(cluster, "postgres")):
        if time.monotonic() > deadline:
            raise EmbeddedFailed("Processes of an earlier PostgreSQL do not end.")
        time.sleep(processes.POLL_SECONDS)


def _pid_file(cluster: Path) -> list[str]:
    """The lines of postmaster.pid: pid, folder, start, port, sockets, address, memory, status."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
    lines = [line.strip() for line in lines]
    return lines if lines and lines[0].isdigit() else []


def _log(home: Home) -> Path:
    return home.folder("logs") / "postgres.log"


def _last_words(home: Home) -> str:
    lines = _log(home).read_text(errors="replace").splitlines()[-5:]
    return " / ".join(lines) or "it left no message"


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
