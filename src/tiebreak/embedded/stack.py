"""The servers of one data folder, ready for use: started or adopted, roles and schema made.

Several processes may use them at once, such as `tiebreak up` and an import. Whoever started
them and is last stops them; servers that outlived a killed process are adopted by the next.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import asyncpg
from pydantic import SecretStr

from tiebreak.embedded import postgres, valkey
from tiebreak.embedded.postgres import PostgresServer
from tiebreak.embedded.record import stop_services
from tiebreak.embedded.state import ensure_folder
from tiebreak.embedded.valkey import ValkeyServer
from tiebreak.secret_files import ensure_password, ensure_secrets, read_secret
from tiebreak.settings import Keyring, Settings
from tiebreak.store import partitions, roles, schema
from tiebreak.store.database import is_connection_failure, unavailable

DATABASE = "tiebreak"

Note = Callable[[str], None]


@dataclass(frozen=True)
class Services:
    """Running servers, and the settings and keys to use them with."""

    settings: Settings
    keyring: Keyring
    postgres: PostgresServer | None
    valkey: ValkeyServer | None


@contextmanager
def stack(settings: Settings, note: Note = lambda _text: None) -> Generator[Services]:
    """The data folder's servers for as long as the block runs; other users keep them after it."""
    folder = settings.data_dir.absolute()
    ensure_folder(folder)
    with _file(folder / "use.lock") as use:
        try:
            with _file(folder / "start.lock") as start:
                fcntl.flock(start, fcntl.LOCK_EX)
                fcntl.flock(use, fcntl.LOCK_SH)
                services = start_services(settings, note)
            yield services
        finally:
            with _file(folder / "start.lock") as start:
                fcntl.flock(start, fcntl.LOCK_EX)
                if _is_last(use):
                    note("Stopping the servers")
                    stop_services(folder)


def start_services(settings: Settings, note: Note) -> Services:
    """Start or adopt what the settings do not give an address for, and bring the schema up to date.

    Raises EmbeddedFailed, DatabaseUnavailable, SchemaMismatch, SecretMissing, UnsafeRole.
    """
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    folder, secrets = settings.data_dir, settings.secrets_dir
    ensure_secrets(secrets, is_new=not postgres.is_initialised(folder))
    server = queue = None
    if settings.database.url is None:
        is_new = not postgres.is_initialised(folder)
        note("Creating the database" if is_new else "Starting PostgreSQL")
        server = postgres.start(folder, read_secret(secrets, "superuser.password"))
        settings = _with_mlflow(_with_database(settings, server), server)
    if settings.redis.url is None:
        note("Starting Valkey")
        queue = valkey.start(folder, read_secret(secrets, "valkey.password"))
        redis = settings.redis.model_copy(update={"url": SecretStr(queue.url)})
        settings = settings.model_copy(update={"redis": redis})
    try:
        asyncio.run(_prepare(settings, server, note))
    except Exception as error:
        if is_connection_failure(error):
            hint = "Check DATABASE_URL and DATABASE_OWNER_URL."
            raise unavailable(error, hint) from error
        raise
    return Services(settings, Keyring.load(settings), server, queue)


def _with_database(settings: Settings, server: PostgresServer) -> Settings:
    def url(role: str, name: str) -> SecretStr:
        return SecretStr(
            server.url(DATABASE, role, read_secret(settings.secrets_dir, f"{name}.password"))
        )

    database = settings.database.model_copy(
        update={
            "url": url(roles.APP, "app"),
            "owner_url": url(roles.OWNER, "owner"),
            "readonly_url": url(roles.READONLY, "readonly"),
        }
    )
    return settings.model_copy(update={"database": database})


def _with_mlflow(settings: Settings, server: PostgresServer) -> Settings:
    """A database of MLflow's own on our server, where no other place is given."""
    if settings.mlflow.tracking_uri is not None or find_spec("mlflow") is None:
        return settings
    password = ensure_password(settings.secrets_dir, "mlflow")
    uri = server.url(roles.MLFLOW, roles.MLFLOW, password)
    driver = uri.replace("postgresql://", "postgresql+psycopg://", 1)
    mlflow = settings.mlflow.model_copy(update={"tracking_uri": SecretStr(driver)})
    return settings.model_copy(update={"mlflow": mlflow})


def without_own_addresses(settings: Settings, services: Services) -> Settings:
    """The settings as they were before the addresses of our own servers came in."""
    update: dict[str, object] = {}
    if services.postgres is not None:
        addresses = {"url": None, "owner_url": None, "readonly_url": None}
        update["database"] = settings.database.model_copy(update=addresses)
        uri = settings.mlflow.tracking_uri
        if uri is not None and f"//{roles.MLFLOW}:" in uri.get_secret_value():
            update["mlflow"] = settings.mlflow.model_copy(update={"tracking_uri": None})
    if services.valkey is not None:
        update["redis"] = settings.redis.model_copy(update={"url": None})
    return settings.model_copy(update=update)


async def _prepare(settings: Settings, server: PostgresServer | None, note: Note) -> None:
    """Roles and database where the server is ours; then schema, partitions and the role check."""
    if server is not None:
        await _prepare_server(settings, server)
    database = settings.database
    if database.owner_url is not None:
        await _migrate(database.owner_url.get_secret_value(), note)
    assert database.url is not None
    app = await asyncpg.connect(database.url.get_secret_value())
    try:
        await schema.check(app)
        await roles.check_app(app)
        await partitions.ensure(app, partitions.years_ahead(datetime.now(UTC)))
    finally:
        await app.close()


async def _migrate(owner_url: str, note: Note) -> None:
    """Bring a schema that is older than ours, or not there yet, up to date."""
    owner = await asyncpg.connect(owner_url)
    try:
        found = await schema.version(owner)
    finally:
        await owner.close()
    if found is not None and found >= schema.newest():
        return
    from tiebreak.store import migrate  # here: Alembic takes longer to import than most commands

    note("Bringing the schema up to date")
    await migrate.upgrade(owner_url)


async def _prepare_server(settings: Settings, server: PostgresServer) -> None:
    admin = await asyncpg.connect(server.url(postgres.SUPERUSER))
    try:
        await roles.ensure_roles(admin, passwords(settings.secrets_dir))
        await roles.ensure_database(admin, DATABASE)
        if (settings.secrets_dir / "mlflow.password").exists():
            await roles.ensure_mlflow(admin, read_secret(settings.secrets_dir, "mlflow.password"))
    finally:
        await admin.close()


def passwords(secrets: Path) -> dict[str, str]:
    """The passwords of the database's roles."""
    names = {roles.OWNER: "owner", roles.APP: "app", roles.READONLY: "readonly"}
    return {role: read_secret(secrets, f"{name}.password") for role, name in names.items()}


@contextmanager
def _file(path: Path) -> Generator[int]:
    """A file to lock; closing it gives the lock up."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _is_last(use: int) -> bool:
    """Whether nobody else uses the servers."""
    try:
        fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
