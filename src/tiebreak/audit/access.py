"""Persons and keys against the journal: each stands there because a sealed entry says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import orjson


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A row that the journal does not tell of, or an entry whose row is gone."""

    table: str
    cause: str
    message: str
    key: dict[str, str]


async def contradictions(conn: Any) -> list[Contradiction]:
    """How persons, keys and revocations differ from `system_audit`; `conn` is in a transaction."""
    journal: dict[str, dict[str, Mapping[str, Any]]] = {action: {} for action in _TABLES}
    for row in await conn.fetch(_JOURNAL, list(_TABLES)):
        journal[row["action"]][row["subject"]] = {**_detail(row["detail"]), "actor": row["actor"]}
    found: list[Contradiction] = []
    for action, (table, column, query) in _TABLES.items():
        rows = {row[column]: row for row in await conn.fetch(query)}
        found += _compared(table, column, rows, journal[action])
    return found


def _compared(
    table: str, column: str, rows: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]]
) -> Iterator[Contradiction]:
    for name in sorted(rows.keys() | entries.keys()):
        key = {column: name}
        if name not in rows:
            message = "The journal tells of a row that is gone."
            yield Contradiction(table, "journaled_row_missing", message, key)
        elif name not in entries:
            message = "The journal does not tell of this row."
            yield Contradiction(table, "row_not_journaled", message, key)
        elif not _agree(rows[name], entries[name]):
            message = "The row is not what the journal says."
            yield Contradiction(table, "row_contradicts_journal", message, key)


def _agree(row: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether the row has every value that the entry tells."""
    return all(_told(row[name]) == entry[name] for name in row.keys() & entry.keys())


def _told(value: object) -> object:
    """A value as the journal writes it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def _detail(text: str) -> Mapping[str, Any]:
    """An entry's detail; empty when it was altered to something else, which the seal shows."""
    try:
        detail = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", detail) if isinstance(detail, dict) else {}


_JOURNAL = "SELECT action, subject, actor, detail FROM system_audit WHERE action = ANY($1)"

_TABLES = {
    "person.created": (
        "persons",
        "person",
        "SELECT person, created_by AS actor FROM persons",
    ),
    "key.created": (
        "api_keys",
        "key_id",
        "SELECT key_id, person, roles, secret_hash, expires_at, created_by AS actor FROM api_keys",
    ),
    "key.revoked": (
        "api_key_revocations",
        "key_id",
        "SELECT key_id, reason, revoked_by AS actor FROM api_key_revocations",
    ),
}
