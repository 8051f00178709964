"""Bodies of many tickets from a seed: tables of odd columns and values, whole, cut off, altered."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import orjson
import polars as pl

LINES = "application/x-ndjson"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
KINDS = (LINES, CSV, ARROW, PARQUET)
NOT_TAKEN = ("application/json", "text/plain", "text/csv; charset=latin-1", "")

WORDS = (
    "",
    "flood",
    'a "quoted", one\r\nof lines',
    "水 ẞ İ",
    "x\0y",
    "\ufeff",
    "NaN",
    "1e999",
    "-0",
)
MOMENT = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
CLOCKS = (datetime(2026, 3, 2, 14, 30), datetime(1, 1, 1), datetime(9999, 12, 31))
DATES = (date(2026, 4, 1), date(1, 1, 1), date(9999, 12, 31))
FLOATS = (0.0, -0.0, 1e-320, 999_999.5, 1e300, math.inf, -math.inf, math.nan)
INTEGERS = (0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
NUMBERS: dict[Any, Sequence[object]] = {
    pl.Float64: FLOATS,
    pl.Float32: FLOATS,
    pl.Int64: INTEGERS,
    pl.UInt64: (0, 2**64 - 1),
    pl.Int8: (0, -128),
    pl.Decimal(38, 3): (Decimal("12.345"), Decimal("-99999999999999999999999999999.999")),
    pl.Boolean: (True, False),
    pl.String: WORDS,
    pl.Null: (None,),
}
TIMES: dict[Any, Sequence[object]] = {
    pl.Datetime("us", "UTC"): (MOMENT,),
    pl.Datetime("ms"): CLOCKS,
    pl.Datetime("us", "Asia/Kathmandu"): (MOMENT,),
    pl.Date: DATES,
    pl.Time: (datetime(2026, 1, 1, 23, 59).time(),),
    pl.Duration("us"): (timedelta(days=999_999),),
    pl.String: ("2026-03-02T14:30:00Z", "2026-02-30", "24:00", "now"),
}
TEXTS: dict[Any, Sequence[object]] = {
    pl.String: WORDS,
    pl.Categorical: WORDS,
    pl.Enum(WORDS): WORDS,
    pl.Binary: (b"\xff\xfe", b"", b"text"),
    pl.Int64: INTEGERS,
}
NESTED: dict[Any, Sequence[object]] = {
    pl.List(pl.String): (["a", "b"], [], [None], list(WORDS)),
    pl.List(pl.Int64): ([1, 2**63 - 1], [None]),
    pl.Array(pl.String, 2): (["a", "a"], [None, "b"]),
    pl.Struct({"a": pl.Int64, "b": pl.List(pl.String)}): ({"a": 1, "b": ["x"]},),
    **TEXTS,
}
COLUMNS = {
    "opened_at": TIMES,
    "kind": {**TEXTS, pl.Struct({"a": pl.Int64}): ({"a": 1},)},
    "cost": NUMBERS,
    "people": NUMBERS,
    "remarks": TEXTS,
    "marks": NESTED,
    "due_on": TIMES,
    "urgent": NUMBERS,
    "ticket_id": TEXTS,
    "nobodys": {**NUMBERS, **TIMES, **NESTED},
}


@dataclass(frozen=True)
class Body:
    """One request's body, what it says it is, and how it came to be."""

    content: bytes
    content_type: str
    told: str


def bodies(kind: str, seed: int, count: int) -> Iterator[Body]:
    """So many bodies of this kind, the same ones for the same seed."""
    for number in range(count):
        chance = Random(f"{seed} {kind} {number}")  # alone, so that one can be made again
        change = CHANGES[number % len(CHANGES)]
        content = change(chance, written(kind, chance))
        told = f"{kind} {number}: {change.__name__}"
        yield Body(content, _type(kind, change, chance), told)


def sound(kind: str, prefix: str, count: int) -> Body:
    """A body whose every ticket is taken."""
    frame = pl.DataFrame(
        {"ticket_id": [f"{prefix} {i}" for i in range(count)]}
        | {"opened_at": ["2026-03-02T14:30:00Z"] * count, "kind": ["leak"] * count}
    )
    return Body(_written(kind, frame), kind, "sound")


def written(kind: str, chance: Random) -> bytes:
    """A table that this format can hold."""
    height = chance.choice((0, 1, 3, 20))
    frame = pl.DataFrame(
        {"ticket_id": [f"{chance.random()}" for _ in range(height)]}
        | {"opened_at": [MOMENT] * height, "kind": chance.choices(("leak", "lamp"), k=height)}
        | {"remarks": chance.choices(WORDS[:4], k=height)}
    )
    for name in chance.sample(list(COLUMNS), chance.choice((0, 1, 4))):
        dtype, values = chance.choice(list(COLUMNS[name].items()))
        column = chance.choices((*values, None), k=height)
        frame = frame.with_columns(pl.Series(name, column, dtype=dtype, strict=False))
    return _written(kind, frame)


def _written(kind: str, frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    if kind == LINES:
        return b"".join(orjson.dumps(_ticket(row), _odd) + b"\n" for row in frame.rows(named=True))
    if kind == CSV:
        _flat(frame).write_csv(out)
    elif kind == ARROW:
        frame.write_ipc_stream(out, compression="uncompressed")
    else:
        frame.write_parquet(out)
    return out.getvalue()


def _ticket(row: dict[str, Any]) -> dict[str, Any]:
    return {"ticket_id": row.pop("ticket_id"), "fields": row}


def _odd(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with texts in the place of what CSV cannot hold."""
    return frame.with_columns(
        pl.Series(name, [None if value is None else str(value) for value in frame[name]])
        for name, kind in frame.schema.items()
        if kind.is_nested() or isinstance(kind, pl.Binary | pl.Duration)
    )


def whole(_chance: Random, data: bytes) -> bytes:
    """As it is."""
    return data


def cut(chance: Random, data: bytes) -> bytes:
    """Without its end."""
    return data[: chance.randrange(len(data) + 1)]


def bits(chance: Random, data: bytes) -> bytes:
    """With some bits the other way round."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 2, 8)) if found else 0):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    return bytes(found)


def overwritten(chance: Random, data: bytes) -> bytes:
    """With a run of bytes that come from elsewhere."""
    start, length = chance.randrange(len(data) + 1), chance.choice((1, 4, 64))
    other = chance.choice((b"\0", b"\xff", b'"', b"\n", chance.randbytes(1)))
    return data[:start] + other * length + data[start + length :]


def doubled(chance: Random, data: bytes) -> bytes:
    """With a part of it twice."""
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:]


def missing(chance: Random, data: bytes) -> bytes:
    """Without a part of it."""
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def numbers(chance: Random, data: bytes) -> bytes:
    """With a large number somewhere, as in the length of something."""
    start = 4 * chance.randrange(len(data) // 4 + 1)
    number = chance.choice((2**31 - 1, 2**32 - 1, 2**24, 1))
    return data[:start] + number.to_bytes(4, "little") + data[start + 4 :]


def refused(_chance: Random, data: bytes) -> bytes:
    """As it is, under a type that is not taken."""
    return data


def mislabelled(_chance: Random, data: bytes) -> bytes:
    """As it is, under the type of another kind."""
    return data


CHANGES: Sequence[Callable[[Random, bytes], bytes]] = (
    whole,
    bits,
    refused,
    cut,
    overwritten,
    doubled,
    missing,
    numbers,
    mislabelled,
)


def _type(kind: str, change: Callable[[Random, bytes], bytes], chance: Random) -> str:
    if change is refused:
        return chance.choice(NOT_TAKEN)
    if change is mislabelled:
        return chance.choice([each for each in KINDS if each != kind])
    return kind
