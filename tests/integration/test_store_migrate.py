"""Migrations lead to exactly the tables of the metadata, and say when they have not run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import orjson
import pytest
from sqlalchemy.exc import DBAPIError
from tests.databases import DatabaseUrls, execute
from tests.keys import KEYRING
from tests.upgrades import record

from tiebreak.audit.verify import verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.signing import BundleKeys
from tiebreak.decisions.replay import Cause, replay
from tiebreak.embedded.postgres import PostgresServer
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.store import migrate, reading, roles
from tiebreak.store.database import Database, DatabaseUnavailable


async def test_migrations_equal_the_metadata(database_urls: DatabaseUrls) -> None:
    assert await migrate.differences(database_urls.owner) == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE persons ADD COLUMN more text",
        "ALTER TABLE persons DROP COLUMN created_by",
        "ALTER TABLE persons ALTER COLUMN created_by TYPE varchar(9)",
        "ALTER TABLE persons ALTER COLUMN created_by DROP NOT NULL",
        "ALTER TABLE workflow_clocks ALTER COLUMN history_generation SET DEFAULT 2",
        "ALTER TABLE outcomes DROP CONSTRAINT outcomes_kind_check",
        "ALTER TABLE persons RENAME TO people",
        "DROP INDEX system_audit_at_idx",
        "CREATE TABLE more (a int)",
    ],
)
async def test_every_kind_of_difference_is_found(
    database_urls: DatabaseUrls, statement: str
) -> None:
    await execute(database_urls.owner, statement)
    assert await migrate.differences(database_urls.owner)


async def test_upgrading_again_and_at_the_same_time_changes_nothing(
    database_urls: DatabaseUrls,
) -> None:
    versions = await asyncio.gather(*(migrate.upgrade(database_urls.owner) for _ in range(3)))
    assert set(versions) == {migrate.head()}


async def test_two_first_starts_migrate_once(postgres: PostgresServer) -> None:
    admin = await asyncpg.connect(postgres.url("postgres"))
    await roles.ensure_database(admin, "twice")
    url = postgres.url("twice", roles.OWNER, postgres.password)
    await asyncio.gather(*(migrate.upgrade(url) for _ in range(2)))
    assert await migrate.differences(url) == []
    await admin.execute("DROP DATABASE twice WITH (FORCE)")
    await admin.close()


@pytest.mark.parametrize("version", sorted(path.stem for path in record.FOLDER.glob("*.json")))
async def test_an_upgrade_keeps_what_was_stored(
    postgres: PostgresServer, version: str, tmp_path: Path
) -> None:
    """Rows of an earlier version are kept, still fit their seals, and decide as they did."""
    urls = await record.empty(postgres, f"upgraded_{version}", version)
    before = orjson.loads((record.FOLDER / f"{version}.json").read_bytes())
    admin = await asyncpg.connect(urls.admin)
    await admin.execute("SET session_replication_role = replica")  # the order does not matter
    for table, rows in before.items():
        await admin.execute(
            f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, $1)",
            orjson.dumps(rows).decode(),
        )
    await admin.close()
    assert await migrate.upgrade(urls.owner) == migrate.head()
    assert await migrate.differences(urls.owner) == []
    after = await record.rows(urls.admin)
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]] if rows else []
        assert sorted(kept, key=repr) == sorted(rows, key=repr), table

    db = await Database.open(urls.app, pool_size=4)
    artifacts = ArtifactStore(Folder(tmp_path))
    report = await verify(db, artifacts, KEYRING)
    assert report.is_intact, report.findings
    assert report.verified > 50
    assert report.erased == 5
    keys = BundleKeys(KEYRING.bundle_keys, KEYRING.bundle_signing_key_id)
    replayed = await replay(
        reading.pairs(db, None, sample=None), PolicyLibrary(db, artifacts, keys)
    )
    assert replayed.counts == {Cause.IDENTICAL: 16, Cause.ERASED: 2}
    await db.close()
    await execute(postgres.url("postgres"), f"DROP DATABASE {urls.name} WITH (FORCE)")


async def test_an_outdated_schema_is_named(db: Database, database_urls: DatabaseUrls) -> None:
    async with db.read() as connection:
        await migrate.check_current(connection)
    await execute(database_urls.owner, "UPDATE alembic_version SET version_num = '0000'")
    async with db.read() as connection:
        with pytest.raises(migrate.SchemaOutdated, match="0000"):
            await migrate.check_current(connection)


async def test_reading_cannot_write(db: Database) -> None:
    async with db.read() as connection:
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await connection.exec_driver_sql("INSERT INTO persons VALUES ('p', now(), 'q')")


async def test_a_server_that_is_away_is_unavailable_and_comes_back(
    database_urls: DatabaseUrls,
) -> None:
    away = await Database.open("postgresql://tiebreak_app:x@127.0.0.1:1/none")
    for way in (away.check(), _read(away)):
        with pytest.raises(DatabaseUnavailable):
            await way
    await away.close()

    database = await Database.open(database_urls.app)
    await database.check()
    await _read(database)
    with pytest.raises(DatabaseUnavailable):
        await _cut_in_the_middle(database, database_urls)
    await database.check()
    await _read(database)
    await database.close()


async def _read(database: Database) -> None:
    async with database.read() as connection:
        await connection.exec_driver_sql("SELECT 1")


async def _cut_in_the_middle(database: Database, urls: DatabaseUrls) -> None:
    async with database.connection() as connection:
        await _cut(urls)
        await connection.execute("SELECT 1")


async def _cut(urls: DatabaseUrls) -> None:
    await execute(
        urls.admin,
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{roles.APP}'"
        f" AND datname = '{urls.name}'",
    )
