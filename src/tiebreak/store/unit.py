"""What the store needs of a unit of work: a connection in a transaction, and ways to add rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

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


class Unit(Protocol):
    """One transaction whose sealed rows are covered by one seal; `audit.lanes` makes it."""

    @property
    def conn(self) -> Connection:
        """The connection, inside the transaction."""
        ...

    def add(self, table: Table, rows: Sequence[Mapping[str, object]]) -> None:
        """Rows to be written when the unit ends; its seal commits to those of sealed tables."""
        ...

    async def flush(self) -> None:
        """Write what was added, for statements of this unit that shall see it."""
        ...

    def note(
        self, actor: str, action: str, subject: str, detail: Mapping[str, object] | None = None
    ) -> None:
        """Add an entry to `system_audit`; `detail` never holds personal data."""
        ...

    def tombstone(self, table: Table, row: Mapping[str, object]) -> bytes:
        """What a tombstone says of a stored record: its leaf's place, and a hash of what is left.

        `row` holds the record's seal columns, and null where erasure makes it so.
        """
        ...
