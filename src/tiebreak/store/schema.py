"""Which version the schema of a database has, and which one this Tiebreak needs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tiebreak.errors import Unavailable

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

_VERSIONS = Path(__file__).parent / "migrations" / "versions"


class SchemaMismatch(Unavailable):
    """The database's schema is not the one that this version of Tiebreak needs."""

    code = "schema_mismatch"


@cache
def newest() -> str:
    """The newest version that the migrations know; their files are named after their versions."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*.py"))


async def version(connection: asyncpg.Connection | PoolConnectionProxy) -> str | None:
    """The version of the database's schema, None before the first migration."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    return await connection.fetchval("SELECT version_num FROM alembic_version")


async def check(connection: asyncpg.Connection | PoolConnectionProxy) -> None:
    """Raise SchemaMismatch unless the database has the newest version."""
    found, needed = await version(connection), newest()
    if found == needed:
        return
    hint = "Run `tiebreak up` with DATABASE_OWNER_URL set, which migrates."
    if found is not None and found > needed:
        hint = "A newer Tiebreak has migrated it: run that one."
    raise SchemaMismatch(
        f"The database has schema version {found or 'none'}, this Tiebreak needs {needed}.",
        hint=hint,
        found=found,
        needed=needed,
    )
