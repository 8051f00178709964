"""Writing rows of several tables: a few in one statement, many by COPY.

One statement is one round trip whatever it writes, and outside a transaction it is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import cast
from uuid import UUID

from sqlalchemy import ARRAY, Table
from sqlalchemy.dialects import postgresql

from tiebreak.store.database import DatabaseUnavailable
from tiebreak.store.unit import Connection

ALIKE = frozenset(
    {
        *("workflow", "generation", "as_of", "known_at", "origin", "lane", "seal_seq"),
        *("policy_hash", "fingerprint", "decided_at", "ordinal", "model_status", "base_value"),
    }
)
FEW_ROWS = 512  # up to here one statement is faster than a COPY for each table (measured)

Rows = Sequence[Mapping[str, object]]
Writes = Mapping[Table, Rows]
SealAt = tuple[UUID, int]  # a seal's lane and number

STANDS = "EXISTS (SELECT FROM audit_seals WHERE lane = $1 AND seq = $2)"

_DIALECT = postgresql.dialect()


def are_few(writes: Writes) -> bool:
    """Whether these rows go into one statement."""
    return sum(map(len, writes.values())) <= FEW_ROWS


class RecordsLost(DatabaseUnavailable):
    """The database crashed and lost what was not answered yet."""

    code = "records_lost"


async def insert(conn: Connection, writes: Writes, after: SealAt | None = None) -> None:
    """Insert rows in one statement, which is whole or nothing; columns a row lacks become null.

    With `after` they are inserted only where that seal stands, which is what they build on. Raises
    `RecordsLost` where it does not.
    """
    shapes = tuple((table, _same_in(table, rows)) for table, rows in writes.items())
    arguments = chain.from_iterable(
        _arguments(table, rows, same)
        for (table, same), rows in zip(shapes, writes.values(), strict=True)
    )
    if after is None:
        await conn.execute(_statement(shapes), *arguments)
        return
    tag = await conn.execute(_statement(shapes, is_after=True), *after, *arguments)
    if tag == "INSERT 0 0":
        raise RecordsLost(hint="Send it again.")


async def write(conn: Connection, writes: Writes) -> None:
    """Insert rows inside a transaction, in one statement or, when they are many, by COPY."""
    filled = {table: rows for table, rows in writes.items() if rows}
    if not filled:
        return
    if are_few(filled):
        await insert(conn, filled)
        return
    for table, rows in filled.items():
        names = _names(table)
        records = [tuple(map(row.get, names)) for row in rows]
        await conn.copy_records_to_table(table.name, records=records, columns=names)


def _same_in(table: Table, rows: Rows) -> frozenset[str]:
    """The columns that come as one value: all of a single row, else those that mostly are alike."""
    if len(rows) == 1:
        return _all_of(table)
    alike = _alike(table)
    for name in alike:
        values = [row.get(name) for row in rows]
        if values.count(values[0]) != len(values):
            return _NONE
    return alike


_NONE = frozenset[str]()


@lru_cache(maxsize=64)
def _all_of(table: Table) -> frozenset[str]:
    return frozenset(_names(table))


@lru_cache(maxsize=64)
def _alike(table: Table) -> frozenset[str]:
    return ALIKE & _all_of(table)


@lru_cache(maxsize=256)
def _statement(shapes: tuple[tuple[Table, frozenset[str]], ...], *, is_after: bool = False) -> str:
    """Inserts rows that come as one array a column, tables in their order.

    With each table stand the columns that come as one value; they may be all. If they come after
    a seal, its lane and number are the first parameters.
    """
    number, inserts = 3 if is_after else 1, list[str]()
    where = f" WHERE {STANDS}" if is_after else ""
    for table, same in shapes:
        arrays, names, values = list[str](), list[str](), list[str]()
        for name, kind, is_array in _columns(table):
            if name in same:
                values.append(f"${number}::{kind}")
                number += 1
            elif is_array:  # unnest would take all dimensions apart
                names += [f"{name}_first", f"{name}_last"]
                arrays += [f"${number + 1}::int[]", f"${number + 2}::int[]"]
                values.append(f"(${number}::{kind})[r.{name}_first : r.{name}_last]")
                number += 3
            else:
                names.append(name)
                arrays.append(f"${number}::{kind}[]")
                values.append(f"r.{name}")
                number += 1
        source = f" FROM unnest({', '.join(arrays)}) AS r ({', '.join(names)})" if arrays else ""
        inserts.append(
            f"INSERT INTO {table.name} ({', '.join(_names(table))}) "
            f"SELECT {', '.join(values)}{source}{where}"
        )
    *others, last = inserts
    head = ", ".join(f"w{i} AS ({insert})" for i, insert in enumerate(others))
    return f"WITH {head} {last}" if others else last


def _arguments(table: Table, rows: Rows, same: frozenset[str]) -> Iterable[object]:
    for name, _, is_array in _columns(table):
        if name in same:
            yield rows[0].get(name)
            continue
        values = [row.get(name) for row in rows]
        if is_array:
            arrays = cast("list[Sequence[object]]", values)
            lasts = list(accumulate(map(len, arrays)))
            yield list(chain.from_iterable(arrays))
            yield [1, *(last + 1 for last in lasts[:-1])]
            yield lasts
        else:
            yield values


@lru_cache(maxsize=64)
def _columns(table: Table) -> tuple[tuple[str, str, bool], ...]:
    """Of each column its name, its type, and whether it holds arrays."""
    return tuple(
        (str(c.name), c.type.compile(dialect=_DIALECT), isinstance(c.type, ARRAY))
        for c in table.columns
    )


@lru_cache(maxsize=64)
def _names(table: Table) -> tuple[str, ...]:
    return tuple(name for name, _, _ in _columns(table))
