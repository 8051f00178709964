"""Listening: hears at once that something changed for releases; whoever waits looks anyway.

What is heard only says that looking pays; what was missed while the connection was away is found by
the next look.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from tiebreak.store.database import Database

log = structlog.get_logger()

CHANNEL = "tiebreak_release"
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 1.0


class Listener:
    """One connection of its own that listens, and connects again whenever it is lost."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen; a database that is away is tried again."""
        self._task = asyncio.create_task(self._listen_on())

    async def wait(self, timeout_seconds: float) -> None:
        """Return when something changed since the last wait, at the latest after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):  # wait_for may swallow a cancellation
                await self._news.wait()
        self._news.clear()

    async def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _listen_on(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 - whoever decides looks by the clock too
                log.warning("listening_failed", error=type(error).__name__)
            await asyncio.sleep(RETRY_SECONDS)

    async def _listen(self) -> None:
        """Listen until the connection is lost."""
        connection = await self._db.connect()
        lost = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._hear)
            self._news.set()  # something may have changed while nobody listened
            await lost.wait()
        finally:
            with contextlib.suppress(Exception):
                await connection.close(timeout=CLOSE_SECONDS)

    def _hear(self, *_: object) -> None:
        self._news.set()
