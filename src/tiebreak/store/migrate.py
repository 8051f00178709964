"""The schema's versions: bring a database to the newest one, and compare it with the tables."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import CheckConstraint, Connection, Inspector, inspect, text

from tiebreak.store import roles
from tiebreak.store.database import engine_for
from tiebreak.store.partitions import PARTITIONED
from tiebreak.store.schema import newest
from tiebreak.store.tables import metadata

FOLDER = Path(__file__).parent / "migrations"
_LOCK = 7305808869229538661  # any fixed number: two starts at once migrate one after the other


async def upgrade(owner_url: str, to: str | None = None) -> str:
    """Bring the database to this version, else the newest, and return it.

    Nothing happens when it is there.
    """
    target = to or newest()
    engine = engine_for(owner_url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            if await connection.run_sync(_current) != target:
                raw = await connection.get_raw_connection()
                assert raw.driver_connection is not None
                await roles.ensure_groups(raw.driver_connection)
                await connection.run_sync(_upgrade, target)
    finally:
        await engine.dispose()
    return target


async def differences(owner_url: str) -> list[str]:
    """How the database differs from the tables' metadata; empty when they are equal."""
    engine = engine_for(owner_url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_differences)
    finally:
        await engine.dispose()


async def draft(owner_url: str, message: str) -> Path:
    """Write a new version file with the changes that take the database to the metadata."""
    engine = engine_for(owner_url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_draft, message)
    finally:
        await engine.dispose()


def comparison_options() -> dict[str, Any]:
    """What Alembic compares: the tables of the metadata; year partitions follow their parent."""

    def is_ours(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or not (name or "").startswith(
            tuple(f"{table}_y" for table in PARTITIONED)
        )

    return {
        "target_metadata": metadata,
        "compare_type": True,
        "compare_server_default": True,
        "include_name": is_ours,
    }


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _upgrade(connection: Connection, target: str) -> None:
    command.upgrade(_config(connection), target)


def _draft(connection: Connection, message: str) -> Path:
    number = len(list((FOLDER / "versions").glob("[0-9]*.py"))) + 1
    script = command.revision(
        _config(connection), message, autogenerate=True, rev_id=f"{number:04d}"
    )
    assert script is not None
    assert not isinstance(script, list)
    return Path(script.path)


def _differences(connection: Connection) -> list[str]:
    options = comparison_options()
    context = MigrationContext.configure(connection, opts=options)
    with warnings.catch_warnings():  # of SQLAlchemy about checks that are NOT VALID
        warnings.filterwarnings("ignore", "Can't validate argument 'dialect_options'")
        found = [str(difference) for difference in compare_metadata(context, metadata)]
    return found + _constraint_differences(inspect(connection))


def _constraint_differences(inspector: Inspector) -> list[str]:
    """What Alembic does not compare: check constraints by name, and primary keys."""
    found: list[str] = []
    present = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in present:
            continue
        checks = {str(check["name"]) for check in inspector.get_check_constraints(table.name)}
        wanted = {
            str(constraint.name)
            for constraint in table.constraints
            if isinstance(constraint, CheckConstraint)
        }
        if checks != wanted:
            found.append(f"check constraints of {table.name}: {checks} instead of {wanted}")
        keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
        if keys != [column.name for column in table.primary_key]:
            found.append(f"primary key of {table.name}: {keys}")
    return found
