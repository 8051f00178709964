"""A real Valkey of our own, the queue's store: started, adopted after a crash, stopped."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tiebreak.embedded import processes
from tiebreak.embedded.binaries import EmbeddedFailed, Home
from tiebreak.embedded.state import State

PROGRAM = "valkey-server"
START_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class ValkeyServer:
    """A running server: where it listens and how to log in."""

    pid: int
    port: int
    password: str
    adopted: bool

    @property
    def url(self) -> str:
        """The address of database 0."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


def start(data_dir: Path, password: str) -> ValkeyServer:
    """Start the data folder's server, or adopt the one that still runs there.

    Writes are kept in an append-only file, flushed each second. `password` must be URL-safe.
    Raises EmbeddedMissing or EmbeddedFailed.
    """
    home, state = Home.of(data_dir), State(data_dir)
    home.folder()
    running = find(data_dir)
    known = state.read().get("valkey_port")
    port = known if running and isinstance(known, int) else state.port("valkey_port")
    pid = running or _launch(home, port, password)
    _wait_ready(home, pid, port, password)
    return ValkeyServer(pid=pid, port=port, password=password, adopted=running is not None)


def find(data_dir: Path) -> int | None:
    """The pid of the data folder's running server, or None."""
    return next(processes.working_in(Home.of(data_dir).path / "valkey", PROGRAM), None)


def stop(data_dir: Path, timeout_seconds: float = 20) -> bool:
    """Stop the data folder's server, if it runs, after its last write reached the disk."""
    pid = find(data_dir)
    if pid is None:
        return False
    processes.stop(pid, signal.SIGTERM, timeout_seconds)
    return True


def _launch(home: Home, port: int, password: str) -> int:
    folder = home.folder("valkey")
    config = "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f'dir "{folder}"',
            f"requirepass {password}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "",
        ]
    )
    with _log(home).open("ab") as log:
        server = subprocess.Popen(
            [str(home.valkey_program()), "-"],  # the password stays out of files and `ps`
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **home.account.popen_options(),
        )
    if server.stdin:
        server.stdin.write(config.encode())
        server.stdin.close()
    return server.pid


def _wait_ready(home: Home, pid: int, port: int, password: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not answers(port, password):
        processes.reap(pid)
        if not processes.is_alive(pid):
            raise EmbeddedFailed(f"Valkey stopped while starting: {_last_words(home)}")
        if time.monotonic() > deadline:
            raise EmbeddedFailed(f"Valkey does not answer: {_last_words(home)}")
        time.sleep(processes.POLL_SECONDS)


def answers(port: int, password: str, timeout_seconds: float = 2) -> bool:
    """Whether a server on this port accepts the password and has loaded its data."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_seconds) as link:
            link.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            received = b""
            while received.count(b"\r\n") < 2 and (part := link.recv(256)):
                received += part
    except OSError:
        return False
    return received == b"+OK\r\n+PONG\r\n"


def _log(home: Home) -> Path:
    return home.folder("logs") / "valkey.log"


def _last_words(home: Home) -> str:
    lines = _log(home).read_text(errors="replace").splitlines()[-5:]
    return " / ".join(lines) or "it left no message"
