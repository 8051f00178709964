"""What tasks need: settings, keys and a database of their own, each run in a loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database

T = TypeVar("T")


def run(work: Callable[[Database, Settings, Keyring], Coroutine[Any, Any, T]]) -> T:
    """Run the work of one task to its end on a database opened for it."""

    async def opened() -> T:
        settings = Settings.load()
        db = await Database.of(settings)
        try:
            return await work(db, settings, Keyring.load(settings))
        finally:
            await db.close()

    return asyncio.run(opened())
