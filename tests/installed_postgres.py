"""An installed PostgreSQL of another version in place of the embedded one, for tests."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from tiebreak.embedded import processes
from tiebreak.embedded.binaries import Home
from tiebreak.embedded.postgres import FORGETFUL, SUPERUSER, PostgresServer
from tiebreak.embedded.state import State

VARIABLE = "TESTS_POSTGRES"
START_TIMEOUT_SECONDS = 30


def programs() -> Path | None:
    """The folder of `postgres` and `initdb` to test with; None: the embedded ones."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        return None
    found = Path(folder)
    assert (found / "postgres").is_file(), f"{VARIABLE} names no folder with PostgreSQL's programs"
    return found


def start(data_dir: Path, password: str, folder: Path) -> PostgresServer:
    """Start a forgetful server where the embedded one would lie, so that it is stopped likewise."""
    home = Home.of(data_dir)
    home.folder()
    cluster, sockets = home.path / "postgres", home.folder("sockets")
    word = home.folder("initdb") / "password"
    word.write_text(password)
    home.account.own(word)
    options = home.account.popen_options()
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    subprocess.run(
        [
            *(str(folder / "initdb"), "-D", str(cluster), "-U", SUPERUSER, "--no-sync"),
            *("--auth=scram-sha-256", f"--pwfile={word}", "--encoding=UTF8", "--locale=C.UTF-8"),
        ],
        cwd=home.path,
        env=environment,
        check=True,
        capture_output=True,
        **options,
    )
    port = State(data_dir).port("postgres_port")
    settings = {
        **FORGETFUL,
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(sockets),
        "timezone": "UTC",
    }
    with (home.folder("logs") / "postgres.log").open("ab") as log:
        server = subprocess.Popen(
            [
                *(str(folder / "postgres"), "-D", str(cluster)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            cwd=home.path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **options,
        )
    _wait_ready(cluster, server)
    return PostgresServer(server.pid, port, sockets, password, adopted=False)


def _wait_ready(cluster: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    pid_file = cluster / "postmaster.pid"
    while not (pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")):
        assert server.poll() is None, "PostgreSQL stopped while starting"
        assert time.monotonic() < deadline, "PostgreSQL is not ready yet"
        time.sleep(processes.POLL_SECONDS)
