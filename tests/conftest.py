"""Real servers for tests: one PostgreSQL and one Valkey a test process, one database a test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest
from tests import installed_postgres, s3
from tests.databases import DatabaseUrls, execute, run, servers_place
from tests.keys import KEYRING

from tiebreak.embedded import postgres as embedded_postgres
from tiebreak.embedded import processes
from tiebreak.embedded import valkey as embedded_valkey
from tiebreak.settings import Keyring
from tiebreak.store import migrate, partitions, roles
from tiebreak.store.database import Database

TEMPLATE = "tiebreak_template"
PASSWORD = "a-password-for-tests"
YEARS = range(2015, 2030)
_PREFIX = "tiebreak-tests-"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_folder() -> Generator[Path]:
    """A short path that the servers' account reaches; what killed test runs left is removed."""
    for old in servers_place().glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):
            if not processes.is_alive(int((old / "owner").read_text())):
                _remove(old)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=servers_place()))
    folder.chmod(0o711)
    (folder / "owner").write_text(str(os.getpid()))
    yield folder
    _remove(folder)


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> embedded_postgres.PostgresServer:
    """A server with the three roles and a migrated template database; it forgets at power loss."""
    programs = installed_postgres.programs()
    if programs is None:
        server = embedded_postgres.start(server_folder, PASSWORD, embedded_postgres.FORGETFUL)
    else:
        server = installed_postgres.start(server_folder, PASSWORD, programs)
    run(_prepare(server))
    return server


@pytest.fixture
def database_urls(postgres: embedded_postgres.PostgresServer) -> Generator[DatabaseUrls]:
    """A new migrated database, with partitions for YEARS; dropped after the test."""
    with _database(postgres) as urls:
        yield urls


@pytest.fixture(scope="module")
def module_database_urls(postgres: embedded_postgres.PostgresServer) -> Generator[DatabaseUrls]:
    """The same for all tests of a module that set up much and change little."""
    with _database(postgres) as urls:
        yield urls


@pytest.fixture
async def db(database_urls: DatabaseUrls) -> AsyncGenerator[Database]:
    """The test's database as the app role."""
    database = await Database.open(database_urls.app, pool_size=8)
    yield database
    await database.close()


@pytest.fixture
def keyring() -> Keyring:
    """Fixed keys, so that what they make is the same in every run."""
    return KEYRING


@pytest.fixture(scope="session")
def valkey_url(server_folder: Path) -> str:
    """The address of a running Valkey; tests share it, so each uses keys of its own."""
    return embedded_valkey.start(server_folder, PASSWORD).url


@pytest.fixture(scope="session")
def _s3_server() -> Generator[s3.S3]:
    with s3.running() as server:
        yield server


@pytest.fixture
def s3_server(_s3_server: s3.S3, monkeypatch: pytest.MonkeyPatch) -> s3.S3:
    """A running S3 server with an empty bucket, and credentials for it in the environment."""
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    _s3_server.empty()
    return _s3_server


@contextmanager
def _database(postgres: embedded_postgres.PostgresServer) -> Generator[DatabaseUrls]:
    name = f"test_{next(_numbers)}"
    admin = postgres.url("postgres")
    run(
        execute(
            admin,
            f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY OWNER {roles.OWNER}",
        )
    )
    yield DatabaseUrls(
        name=name,
        app=postgres.url(name, roles.APP, PASSWORD),
        owner=postgres.url(name, roles.OWNER, PASSWORD),
        readonly=postgres.url(name, roles.READONLY, PASSWORD),
        admin=postgres.url(name),
    )
    run(execute(admin, f"DROP DATABASE {name} WITH (FORCE)"))


async def _prepare(server: embedded_postgres.PostgresServer) -> None:
    admin = await asyncpg.connect(server.url("postgres"))
    try:
        await roles.ensure_roles(admin, dict.fromkeys(roles.ROLES, PASSWORD))
        await roles.ensure_database(admin, TEMPLATE)
    finally:
        await admin.close()
    owner_url = server.url(TEMPLATE, roles.OWNER, PASSWORD)
    await migrate.upgrade(owner_url)
    owner = await asyncpg.connect(owner_url)
    try:
        await partitions.ensure(owner, YEARS)
    finally:
        await owner.close()


def _remove(folder: Path) -> None:
    embedded_postgres.stop(folder)
    embedded_valkey.stop(folder)
    shutil.rmtree(folder, ignore_errors=True)
