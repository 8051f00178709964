"""What the store needs of a unit of work: a connection in a transaction, and ways to add rows."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from sqlalchemy import Table


class Connection(Protocol):
    """The part of an asyncpg connection that the store uses."""

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement and give its command tag."""
        ...

    async def fetch(self, query: str, *args: object) -> list[Any]:
        """All rows of a query."""
        ...

    async def fetchrow(self, query: str, *args: object) -> Any:
        """The first row of a query, or None."""
        ...

    async def fetchval(self, query: str, *args: object) -> Any:
        """The first value of the first row, or None."""
        ...

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[object]], columns: Sequence[str]
    ) -> str:
        """COPY the records, in binary, into these columns of a table."""
        ...

    async def copy_to_table(
        self,
        table_name: str,
        *,
        source: AsyncIterable[bytes],
        columns: Sequence[str],
        format: Literal["binary"],  # noqa: A002 - the name that asyncpg gives it
    ) -> str:
        """COPY rows that are encoded already into these columns of a table."""
        ...


class Unit(Protocol):
    """One transaction whose sealed rows are covered by one seal; `audit.lanes` makes it."""

    @property
    def conn(self) -> Connection:
        """The connection, inside the transaction."""
        ...

    async def add(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        """COPY rows into a sealed table and commit to them in this unit's seal."""
        ...

    async def copy(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        """COPY rows into a table that is not sealed."""
        ...

    async def note(
        self, actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None
    ) -> None:
        """Add an entry to `system_audit`; `detail` never holds personal data."""
        ...

    def tombstone(self, table: Table, row: Mapping[str, object]) -> bytes:
        """What a tombstone says of a stored record: its leaf's place, and a hash of what is left.

        `row` holds the record's seal columns, and null where erasure makes it so.
        """
        ...
