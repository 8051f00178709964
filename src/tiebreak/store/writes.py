"""Writing rows of several tables: a few in one statement, many by COPY.

One statement is one round trip whatever it writes, and outside a transaction it is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import cast

from sqlalchemy import ARRAY, Column, Table
from sqlalchemy.dialects import postgresql

from tiebreak.store.unit import Connection

FEW_ROWS = 512  # up to here one statement is faster than a COPY for each table (measured)

Rows = Sequence[Mapping[str, object]]
Writes = Mapping[Table, Rows]

_DIALECT = postgresql.dialect()


def are_few(writes: Writes) -> bool:
    """Whether these rows go into one statement."""
    return sum(map(len, writes.values())) <= FEW_ROWS


async def insert(conn: Connection, writes: Writes) -> None:
    """Insert rows in one statement, which is whole or nothing; columns a row lacks become null."""
    arguments = chain.from_iterable(_arguments(table, rows) for table, rows in writes.items())
    await conn.execute(_statement(tuple(writes)), *arguments)


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


@lru_cache(maxsize=256)
def _statement(tables: tuple[Table, ...]) -> str:
    """Inserts rows that come as one array a column, tables in their order."""
    number, inserts = 1, list[str]()
    for table in tables:
        arrays, names, values = list[str](), list[str](), list[str]()
        for column in table.columns:
            kind = _kind(column)
            if isinstance(column.type, ARRAY):  # unnest would take all dimensions apart
                names += [f"{column.name}_first", f"{column.name}_last"]
                arrays += [f"${number + 1}::int[]", f"${number + 2}::int[]"]
                slices = f"r.{column.name}_first : r.{column.name}_last"
                values.append(f"(${number}::{kind})[{slices}]")
                number += 3
            else:
                names.append(str(column.name))
                arrays.append(f"${number}::{kind}[]")
                values.append(f"r.{column.name}")
                number += 1
        inserts.append(
            f"INSERT INTO {table.name} ({', '.join(_names(table))}) "  # noqa: S608 - our names
            f"SELECT {', '.join(values)} FROM unnest({', '.join(arrays)}) AS r ({', '.join(names)})"
        )
    *others, last = inserts
    head = ", ".join(f"w{i} AS ({insert})" for i, insert in enumerate(others))
    return f"WITH {head} {last}" if others else last


def _arguments(table: Table, rows: Rows) -> Iterable[list[object]]:
    for column in table.columns:
        name = str(column.name)
        values = [row.get(name) for row in rows]
        if isinstance(column.type, ARRAY):
            arrays = cast("list[Sequence[object]]", values)
            lasts = list(accumulate(map(len, arrays)))
            yield list(chain.from_iterable(arrays))
            yield [1, *(last + 1 for last in lasts[:-1])]
            yield cast("list[object]", lasts)
        else:
            yield values


@lru_cache(maxsize=64)
def _names(table: Table) -> tuple[str, ...]:
    return tuple(str(column.name) for column in table.columns)


def _kind(column: Column[object]) -> str:
    return column.type.compile(dialect=_DIALECT)
