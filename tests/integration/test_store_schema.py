"""A database whose schema is not ours is named before anything is done with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from tests.databases import DatabaseUrls, execute, fetch, run

from tiebreak.embedded.stack import stack
from tiebreak.settings import DatabaseSettings, RedisSettings, Settings
from tiebreak.store import migrate, schema
from tiebreak.store.database import Database


def test_the_newest_version_is_the_last_migration() -> None:
    assert [schema.newest()] == ScriptDirectory(str(migrate.FOLDER)).get_heads()


@pytest.mark.parametrize(
    ("statement", "said", "advice"),
    [
        ("UPDATE alembic_version SET version_num = '0001'", "version 0001", "tiebreak up"),
        ("UPDATE alembic_version SET version_num = '9999'", "version 9999", "A newer Tiebreak"),
        ("DROP TABLE alembic_version", "version none", "tiebreak up"),
    ],
)
async def test_another_version_is_named_with_what_to_do(
    db: Database, database_urls: DatabaseUrls, statement: str, said: str, advice: str
) -> None:
    async with db.connection() as connection:
        await schema.check(connection)
        await execute(database_urls.owner, statement)
        with pytest.raises(schema.SchemaMismatch, match=said) as caught:
            await schema.check(connection)
    assert advice in caught.value.hint


def _say(urls: DatabaseUrls, version: str) -> None:
    run(execute(urls.owner, f"UPDATE alembic_version SET version_num = '{version}'"))


def _said(urls: DatabaseUrls) -> str:
    return run(fetch(urls.app, "SELECT version_num FROM alembic_version"))[0]["version_num"]


def _elsewhere(folder: Path, urls: DatabaseUrls, valkey_url: str, *, owner: bool) -> Settings:
    database = DatabaseSettings(url=urls.app, owner_url=urls.owner if owner else None)
    return Settings(data_dir=folder, database=database, redis=RedisSettings(url=valkey_url))


def test_without_the_owner_an_older_schema_stays_and_is_refused(
    tmp_path: Path, database_urls: DatabaseUrls, valkey_url: str
) -> None:
    settings = _elsewhere(tmp_path, database_urls, valkey_url, owner=False)
    with stack(settings):
        pass
    _say(database_urls, "0007")
    with pytest.raises(schema.SchemaMismatch, match="version 0007"), stack(settings):
        pass
    assert _said(database_urls) == "0007"


def test_a_newer_schema_is_left_alone(
    tmp_path: Path, database_urls: DatabaseUrls, valkey_url: str
) -> None:
    settings = _elsewhere(tmp_path, database_urls, valkey_url, owner=True)
    _say(database_urls, "9999")
    with pytest.raises(schema.SchemaMismatch, match="version 9999"), stack(settings):
        pass
    assert _said(database_urls) == "9999"
