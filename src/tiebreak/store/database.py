"""The way to Postgres: one asyncpg pool for the hot path, one SQLAlchemy engine for the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tiebreak.errors import InvalidInput, Unavailable
from tiebreak.settings import Settings

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_SECONDS = 5.0
MOST_STATEMENTS = 2**62  # of one connection: another one would have all of them planned anew

_CONNECTION_FAILURES: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InsufficientResourcesError,  # of disk, memory or connections
    asyncpg.PostgresSystemError,  # its files cannot be read or written
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InternalClientError,
)

# A connection that the server cuts while it is in use goes back to its pool at once, and using it
# further is reported in one of these ways.
_LOST_IN_USE = ("closed", "closing", "released back to the pool")

# One that is lost as a statement begins seems busy with it for ever, and cannot be rolled back.
_SEEMS_BUSY = "another operation is"


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""

    code = "database_unavailable"


class DatabaseFull(DatabaseUnavailable):
    """The database has no space left on its disk."""

    code = "database_full"


def unavailable(error: BaseException, hint: str = "") -> DatabaseUnavailable:
    """What to tell of an error for which `is_connection_failure` holds."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, asyncpg.DiskFullError):
        cause = cause.__cause__
    if cause is None:
        return DatabaseUnavailable(hint=hint)
    return DatabaseFull(hint="Free space on the disk of PostgreSQL; then it goes on by itself.")


def is_connection_failure(error: BaseException) -> bool:
    """Whether the server is away or cannot work, rather than that a statement is wrong."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (
            error.orig is not None and is_connection_failure(error.orig)
        )
    if isinstance(error, _CONNECTION_FAILURES):
        return True
    if isinstance(error, asyncpg.InterfaceError):
        before = error.__context__ if _SEEMS_BUSY in str(error) else None
        return any(sign in str(error) for sign in _LOST_IN_USE) or (
            before is not None and is_connection_failure(before)
        )
    cause = error.__cause__
    return cause is not None and is_connection_failure(cause)


def engine_for(url: str, pool_size: int | None = None) -> AsyncEngine:
    """An engine over asyncpg for a plain `postgresql://` address; without a size, without a pool.

    The address goes to asyncpg as it is, so that both ways in accept the same addresses.
    """

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_SECONDS)

    if pool_size is None:
        return create_async_engine(
            "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool
        )
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, pool_size=pool_size, pool_pre_ping=True
    )


async def _nothing_to_reset(_connection: object) -> None:
    """Spare each use of a connection a round trip: nothing here outlives its transaction.

    An open transaction is rolled back before this is called.
    """


class Database:
    """An open database: `pool` for statements that count, `engine` for ordinary queries."""

    def __init__(self, url: str, pool: asyncpg.Pool, engine: AsyncEngine) -> None:
        self._url = url
        self.pool = pool
        self.engine = engine

    @classmethod
    async def open(cls, url: str, pool_size: int = 10) -> Database:
        """Open the pools; they connect when they are first used, so a server may be away now."""
        pool = await asyncpg.create_pool(
            url,
            min_size=0,
            max_size=pool_size,
            timeout=CONNECT_TIMEOUT_SECONDS,
            reset=_nothing_to_reset,
            max_queries=MOST_STATEMENTS,
        )
        return cls(url, pool, engine_for(url, pool_size))

    @classmethod
    async def of(cls, settings: Settings) -> Database:
        """Open the database of these settings as the app role; raises InvalidInput without one."""
        address = settings.database.url
        if address is None:
            raise InvalidInput(
                "No database is configured.",
                hint="Set DATABASE_URL, or start the embedded one with `tiebreak up`.",
            )
        return await cls.open(address.get_secret_value(), settings.database.pool_size)

    async def close(self, timeout_seconds: float = 5) -> None:
        """Close both pools; connections still in use after the timeout are cut."""
        try:
            await asyncio.wait_for(self.pool.close(), timeout_seconds)
        except TimeoutError:
            self.pool.terminate()
        await self.engine.dispose()

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[PoolConnectionProxy]:
        """A connection of the pool; raises DatabaseUnavailable when the server is away."""
        try:
            async with self.pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                yield connection
        except Exception as error:
            if is_connection_failure(error):
                raise unavailable(error) from error
            raise

    async def connect(self) -> asyncpg.Connection:
        """A connection beside the pools, for who keeps it; raises DatabaseUnavailable."""
        try:
            return await asyncpg.connect(self._url, timeout=CONNECT_TIMEOUT_SECONDS)
        except Exception as error:
            if is_connection_failure(error):
                raise unavailable(error) from error
            raise

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncConnection]:
        """A read-only transaction; raises DatabaseUnavailable when the server is away."""
        try:
            async with self.engine.connect() as connection:
                yield await connection.execution_options(postgresql_readonly=True)
        except Exception as error:
            if is_connection_failure(error):
                raise unavailable(error) from error
            raise

    async def check(self) -> None:
        """Ask the server for a sign of life; raises DatabaseUnavailable."""
        async with self.connection() as connection:
            await connection.execute("SELECT 1")
