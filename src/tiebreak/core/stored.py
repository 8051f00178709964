"""Stored ticket revisions, and the columns the engine takes them as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import polars as pl

from tiebreak.core.tickets import Schema, moments


@dataclass(frozen=True, slots=True)
class StoredTicket:
    """A ticket revision as it is decided: what admission stored, at full precision."""

    workflow: str
    ticket_id: str
    revision: int
    as_of: datetime
    ticket_hash: int
    values: Mapping[str, Any]
    context: Mapping[str, int]

    @classmethod
    def from_row(cls, row: Mapping[str, Any], schema: Schema) -> StoredTicket:
        """Read a row of `tickets` whose content has not been erased."""
        return cls(
            workflow=row["workflow"],
            ticket_id=row["ticket_id"],
            revision=row["revision"],
            as_of=row["as_of"],
            ticket_hash=row["ticket_hash"],
            values=schema.load(row["content"].encode()),
            context=orjson.loads(row["context"]),
        )


Columns = tuple[pl.DataFrame, pl.DataFrame]  # fields, `as_of`, `ticket_hash`; and context


def columns(
    tickets: Sequence[StoredTicket], schema: Schema, context_columns: Sequence[str]
) -> Columns:
    """The tickets and their context as the core takes them."""
    frame = schema.frame([t.values for t in tickets]).hstack(_columns_of_all(tickets))
    context = pl.DataFrame(
        [tuple(t.context.get(name) for name in context_columns) for t in tickets],
        schema=dict.fromkeys(context_columns, pl.Int64),
        orient="row",
    )
    return frame, context


def known_columns(
    tickets: Sequence[StoredTicket], fields: pl.DataFrame, context: pl.DataFrame
) -> Columns:
    """The same for tickets whose fields and context stand in columns already."""
    return fields.hstack(_columns_of_all(tickets)), context


def loaded_columns(
    rows: Sequence[Mapping[str, Any]], schema: Schema, context_columns: Sequence[str]
) -> Columns:
    """The same for rows of `tickets` whose content has not been erased, decoded all at once."""
    fields = schema.load_frame([row["content"] for row in rows])
    own = _identity([r["as_of"] for r in rows], [r["ticket_hash"] for r in rows])
    return fields.hstack(own), _contexts([row["context"] for row in rows], context_columns)


def _contexts(texts: Sequence[str], names: Sequence[str]) -> pl.DataFrame:
    if not names:
        return pl.DataFrame(height=len(texts))
    decoded = pl.Struct(dict.fromkeys(names, pl.Int64()))
    return pl.Series(texts, dtype=pl.String).str.json_decode(decoded).struct.unnest()


def _columns_of_all(tickets: Sequence[StoredTicket]) -> list[pl.Series]:
    return _identity([t.as_of for t in tickets], [t.ticket_hash for t in tickets])


def _identity(as_of: Sequence[datetime], ticket_hash: Sequence[int]) -> list[pl.Series]:
    return [
        moments("as_of", as_of),
        pl.Series("ticket_hash", ticket_hash, dtype=pl.Int64),
    ]
