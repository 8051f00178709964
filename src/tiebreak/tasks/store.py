"""Timed work on the store."""

from __future__ import annotations

from datetime import UTC, datetime

from tiebreak.settings import Keyring, Settings
from tiebreak.store import partitions
from tiebreak.store.database import Database
from tiebreak.tasks.app import app
from tiebreak.tasks.site import run


@app.task(name="store.partitions")
def ensure_partitions() -> list[str]:
    """Create the partitions of the coming years; the names of new ones."""

    async def work(db: Database, _settings: Settings, _keyring: Keyring) -> list[str]:
        async with db.connection() as connection:
            years = partitions.years_ahead(datetime.now(UTC))
            return list(await partitions.ensure(connection, years))

    return run(work)
