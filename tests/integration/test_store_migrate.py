"""Migrations lead to exactly the tables of the metadata, and say when they have not run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError
from tests.databases import DatabaseUrls, execute
from tests.functional.serving import TICKET, serving, settings_for
from tests.keys import KEYRING
from tests.upgrades import record

from tiebreak.access.keys import create_key
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.signing import BundleKeys
from tiebreak.decisions.replay import Cause, replay
from tiebreak.embedded.postgres import PostgresServer
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.registry.records import ReleaseRecord
from tiebreak.release.overview import overview
from tiebreak.release.states import State
from tiebreak.store import migrate, reading, roles, schema
from tiebreak.store.database import Database, DatabaseUnavailable

RECORDED = sorted(path.stem for path in record.FOLDER.glob("*.json"))
NEW = 40  # tickets, so that both decide some
ERASED_A_TICKET = 5  # two revisions, their decisions, and the outcome


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
    assert set(versions) == {schema.newest()}


async def test_two_first_starts_migrate_once(postgres: PostgresServer) -> None:
    admin = await asyncpg.connect(postgres.url("postgres"))
    await roles.ensure_database(admin, "twice")
    url = postgres.url("twice", roles.OWNER, postgres.password)
    await asyncio.gather(*(migrate.upgrade(url) for _ in range(2)))
    assert await migrate.differences(url) == []
    await admin.execute("DROP DATABASE twice WITH (FORCE)")
    await admin.close()


def test_every_earlier_version_is_recorded() -> None:
    scripts = ScriptDirectory(str(migrate.FOLDER))
    assert {*RECORDED, schema.newest()} == {each.revision for each in scripts.walk_revisions()}


@pytest.mark.parametrize("version", RECORDED)
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
    assert await migrate.upgrade(urls.owner) == schema.newest()
    assert await migrate.differences(urls.owner) == []
    after = await record.rows(urls.admin)
    for table, rows in before.items():
        kept = [{name: row[name] for name in rows[0]} for row in after[table]] if rows else []
        assert sorted(kept, key=repr) == sorted(rows, key=repr), table

    bundle = record.FOLDER / f"{version}.bundle"
    artifacts = ArtifactStore(Folder(tmp_path / "artifacts"))
    if bundle.exists():
        artifacts.put_bundle(bundle.read_bytes())
    db = await Database.open(urls.app, pool_size=4)
    report = await verify(db, artifacts, KEYRING)
    assert report.is_intact, report.findings
    assert report.verified > 50
    erased = [row for row in before["decisions"] if row["fired"] is None]
    assert report.erased == ERASED_A_TICKET * len(before["erasures"]) > 0
    keys = BundleKeys(KEYRING.bundle_keys, KEYRING.bundle_signing_key_id)
    replayed = await replay(
        reading.pairs(db, None, sample=None), PolicyLibrary(db, artifacts, keys)
    )
    whole = len(before["decisions"]) - len(erased)
    assert replayed.counts == {Cause.IDENTICAL: whole, Cause.ERASED: len(erased)}
    if bundle.exists():
        scored = [row for row in before["decisions"] if row["model_status"] == "scored"]
        assert all(row["contributions"] for row in scored if row not in erased)
        await _is_still_in_force(db, urls, tmp_path, before)
    await db.close()
    await execute(postgres.url("postgres"), f"DROP DATABASE {urls.name} WITH (FORCE)")


async def _is_still_in_force(
    db: Database, urls: DatabaseUrls, folder: Path, before: dict[str, Any]
) -> None:
    """The promoted model decides, and the canary, which goes on, its share."""
    production = max(before["release_records"], key=lambda row: row["seq"])
    (canary,) = before["canary_records"]
    now = await overview(db, KEYRING)
    record_now = now.production[record.WORKFLOW.name]
    assert isinstance(record_now, ReleaseRecord)
    assert (record_now.seq, record_now.kind) == (2, "promote")
    assert record_now.policy_hash == production["policy_hash"]
    (candidate,) = now.candidates
    assert str(candidate.release_id) == canary["release_id"]
    assert candidate.state is State.CANARY
    assert now.share(candidate) == record.CANARY_PERCENT
    lane = await Lane.open(db, "tests", KEYRING)
    token = await create_key(
        lane, person="ann", roles=frozenset({Role.SERVICE}), actor="ann", expires_at=None
    )
    deciding = {canary["policy_hash"], production["policy_hash"]}
    headers = {"Authorization": f"Bearer {token}"}
    with serving(settings_for(urls, folder), KEYRING) as (url, _):
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            path = f"/v1/workflows/{record.WORKFLOW.name}/decisions"
            tickets = [
                {"ticket_id": f"new-{number}", "fields": {**TICKET, "people": number}}
                for number in range(NEW)
            ]
            answers = [(await client.post(path, json=ticket)).json() for ticket in tickets]
    assert {told["model"]["status"] for told in answers} == {"scored"}
    assert {told["policy_hash"] for told in answers} == deciding


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
