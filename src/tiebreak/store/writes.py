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

ALIKE = frozenset(
    {
        *("workflow", "generation", "as_of", "known_at", "origin", "lane", "seal_seq"),
        *("policy_hash", "fingerprint", "decided_at", "ordinal", "model_status", "base_value"),
    }
)
FEW_ROWS = 512  # up to here one statement is faster than a COPY for each table (measured)

Rows = Sequence[Mapping[str, object]]
Writes = Mapping[Table, Rows]

_DIALECT = postgresql.dialect()


def are_few(writes: Writes) -> bool:
    """Whether these rows go into one statement."""
    return sum(map(len, writes.values())) <= FEW_ROWS


async def insert(conn: Connection, writes: Writes) -> None:
    """Insert rows in one statement, which is whole or nothing; columns a row lacks become null."""
    shapes = tuple((table, _is_uniform(table, rows)) for table, rows in writes.items())
    arguments = chain.from_iterable(
        _arguments(table, rows, is_uniform)
        for (table, is_uniform), rows in zip(shapes, writes.values(), strict=True)
    )
    await conn.execute(_statement(shapes), *arguments)


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


def _is_uniform(table: Table, rows: Rows) -> bool:
    """Whether all rows are alike in the columns in which rows of one unit mostly are."""
    for name in _alike(table):
        values = [row.get(name) for row in rows]
        if values.count(values[0]) != len(values):
            return False
    return True


@lru_cache(maxsize=64)
def _alike(table: Table) -> frozenset[str]:
    return ALIKE & frozenset(_names(table))


@lru_cache(maxsize=256)
def _statement(shapes: tuple[tuple[Table, bool], ...]) -> str:
    """Inserts rows that come as one array a column, tables in their order.

    Of a table whose rows are uniform, each column in which they are alike comes as one value.
    """
    number, inserts = 1, list[str]()
    for table, is_uniform in shapes:
        arrays, names, values = list[str](), list[str](), list[str]()
        for column in table.columns:
            kind = _kind(column)
            if isinstance(column.type, ARRAY):  # unnest would take all dimensions apart
                names += [f"{column.name}_first", f"{column.name}_last"]
                arrays += [f"${number + 1}::int[]", f"${number + 2}::int[]"]
                slices = f"r.{column.name}_first : r.{column.name}_last"
                values.append(f"(${number}::{kind})[{slices}]")
                number += 3
            elif is_uniform and column.name in ALIKE:
                values.append(f"${number}::{kind}")
                number += 1
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


def _arguments(table: Table, rows: Rows, is_uniform: bool) -> Iterable[object]:
    for column in table.columns:
        name = str(column.name)
        if is_uniform and name in ALIKE:
            yield rows[0].get(name)
            continue
        values = [row.get(name) for row in rows]
        if isinstance(column.type, ARRAY):
            arrays = cast("list[Sequence[object]]", values)
            lasts = list(accumulate(map(len, arrays)))
            yield list(chain.from_iterable(arrays))
            yield [1, *(last + 1 for last in lasts[:-1])]
            yield lasts
        else:
            yield values


@lru_cache(maxsize=64)
def _names(table: Table) -> tuple[str, ...]:
    return tuple(str(column.name) for column in table.columns)


def _kind(column: Column[object]) -> str:
    return column.type.compile(dialect=_DIALECT)
