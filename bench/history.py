"""What a micro-batch of 32 tickets costs to read from the history log, as the log grows.

Each ticket has three entities and two windows of each. A thousand entities share all rows, so in a
larger log each of them is busier. It is read as an admission reads it, by a process that has been
at it for a while, with some seconds between two batches, so that what is remembered of windows'
begins runs out as it does in service: `milliseconds` are those of all batches but the first few,
`first_milliseconds` those of batches of which nothing is remembered. The alternative aggregates raw
events, indexed by entity and time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg

from bench.memory import watched
from bench.stage import stage
from tiebreak.core.history import HistoryPlan
from tiebreak.core.workflow import Entity, Field, FieldType, HistoryFeature, Workflow
from tiebreak.embedded.stack import Services, stack
from tiebreak.settings import Settings
from tiebreak.store.history import Question, Tick
from tiebreak.store.kept import order_of
from tiebreak.store.starts import Starts
from tiebreak.store.unit import Connection

ROWS = (10_000, 1_000_000, 10_000_000)
ENTITIES = 1_000
TICKETS = 32
KINDS = 3
DAY_US = 86_400_000_000
WINDOWS_DAYS = (30, 180)
WINDOWS_US = [days * DAY_US for days in WINDOWS_DAYS]
UNTIL = datetime(2026, 1, 1, tzinfo=UTC)  # rows cover the year before, evenly
BETWEEN = timedelta(seconds=10)  # two batches
WARM = 60  # batches until nearly every entity was seen
TIMES = 60
TIMES_RAW = 5


def run() -> dict[str, Any]:
    """Milliseconds a micro-batch by size of the log, and how much the largest costs more."""
    with stack(Settings(data_dir=stage().data_dir)) as services:
        assert services.postgres is not None
        with watched(services.postgres.pid) as peak:
            ours, first, raw = asyncio.run(_measure(services))
    return {
        "tiebreak": {
            "milliseconds": ours,
            "first_milliseconds": first,
            "peak_memory_mib": peak.mib,
        },
        "growth": _growth(ours),
        "first_growth": _growth(first),
        "alternative": {"name": "aggregates of raw events", "milliseconds": raw},
        "ratio": round(raw[str(ROWS[-1])] / ours[str(ROWS[-1])], 1),
    }


def _growth(milliseconds: dict[str, float]) -> float:
    """How much a batch costs more in the largest log than in the smallest."""
    return round(milliseconds[str(ROWS[-1])] / milliseconds[str(ROWS[0])], 2)


async def _measure(
    services: Services,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    address = services.settings.database.owner_url
    assert address is not None
    conn = await asyncpg.connect(address.get_secret_value())
    ours, first, raw = dict[str, float](), dict[str, float](), dict[str, float]()
    try:
        for rows in ROWS:
            await conn.execute(_LOG, f"bench_{rows}", rows, ENTITIES, UNTIL, timeout=1_200)
        await conn.execute("VACUUM ANALYZE history_log", timeout=1_200)
        for rows in ROWS:
            name = f"bench_{rows}"
            await conn.execute(_EVENTS)
            await conn.execute(_FILL, name, timeout=1_200)
            await conn.execute(_INDEX, timeout=1_200)
            ours[str(rows)], first[str(rows)] = await _ours(conn, name)
            raw[str(rows)] = await _raw(conn)
            await conn.execute("DROP TABLE bench_events")
    finally:
        await conn.close()
    return ours, first, raw


async def _ours(conn: asyncpg.Connection, name: str) -> tuple[float, float]:
    """The median of a batch when its windows' begins are remembered, and when they are not."""
    plan = HistoryPlan(_workflow(name))
    stored = tuple(slot.id for entity in sorted(plan.slots) for slot in plan.slots[entity])
    order = order_of(plan, stored)
    assert order is not None
    await conn.execute(_CLOCK, name, UNTIL)
    ticks = [Tick(name, UNTIL + number * BETWEEN, 1, plan, order) for number in range(WARM + TIMES)]
    starts = Starts()
    known = [
        await _batch(conn, tick, starts, keys)
        for tick, keys in zip(ticks, _batches(len(ticks)), strict=True)
    ]
    first = [
        await _batch(conn, tick, Starts(), keys)
        for tick, keys in zip(ticks[WARM:], _batches(TIMES), strict=True)
    ]
    return _median_ms(known[WARM:]), _median_ms(first)


async def _batch(
    conn: asyncpg.Connection, tick: Tick, starts: Starts, keys: Sequence[bytes]
) -> float:
    """Seconds that reading the history of a batch takes."""
    starts.follow(tick)
    columns = {f"kind{i}": keys[i * TICKETS : (i + 1) * TICKETS] for i in range(KINDS)}
    begun = time.perf_counter()
    question = Question.of(tick.plan, columns)
    begins = await starts.read(cast(Connection, conn), tick.workflow, question, tick.at)
    assert begins is not None
    question = question.but(begins.totals)
    row = await conn.fetchrow(
        _PROBE, tick.workflow, 1, tick.at, *question.arguments(starts.booked_us)
    )
    assert row is not None
    assert begins.complete(tick, question.known(tick, dict(row))) is not None
    return time.perf_counter() - begun


def _workflow(name: str) -> Workflow:
    features = [
        HistoryFeature(
            name=f"{kind}_{days}",
            entity=kind,
            aggregate="sum",
            value="size",
            window_days=days,
        )
        for kind in (f"kind{i}" for i in range(KINDS))
        for days in WINDOWS_DAYS
    ]
    return Workflow(
        name=name,
        title=name,
        time="opened_at",
        fields=(
            Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
            Field(name="size", type=FieldType.INTEGER),
            *(Field(name=f"kind{i}", type=FieldType.TEXT) for i in range(KINDS)),
        ),
        entities=tuple(Entity(name=f"kind{i}", key=(f"kind{i}",)) for i in range(KINDS)),
        features=tuple(features),
    )


def _batches(count: int) -> Iterator[list[bytes]]:
    chance = random.Random(1)
    for _ in range(count):
        numbers = chance.sample(range(ENTITIES), KINDS * TICKETS)
        yield [hashlib.md5(str(n).encode(), usedforsecurity=False).digest() for n in numbers]


def _median_ms(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds) * 1e3, 2)


async def _raw(conn: asyncpg.Connection) -> float:
    taken: list[float] = []
    for keys in _batches(TIMES_RAW):
        begun = time.perf_counter()
        await conn.fetch(_AGGREGATE, keys, WINDOWS_US, UNTIL)
        taken.append(time.perf_counter() - begun)
    return _median_ms(taken)


_CLOCK = """
    INSERT INTO workflow_clocks (workflow, last_as_of, decided_through) VALUES ($1, $2, $2)
"""

_PROBE = "SELECT * FROM history_probe($1, $2, $3, $4, $5, $6, $7, $8)"

_LOG = """
    INSERT INTO history_log (workflow, generation, entity_key, known_at, totals)
    SELECT $1::text, 1, decode(md5((i % $3::int)::text), 'hex'),
        $4::timestamptz - (($2::int - i) * (31536000.0 / $2::int)) * interval '1 second',
        ARRAY[i]::bigint[]
    FROM generate_series(0, $2::int - 1) AS i
"""

_EVENTS = "CREATE TABLE bench_events (entity_key bytea, known_at timestamptz, value bigint)"

_FILL = """
    INSERT INTO bench_events SELECT entity_key, known_at, totals[1] FROM history_log
    WHERE workflow = $1::text
"""

_INDEX = "CREATE INDEX ON bench_events (entity_key, known_at) INCLUDE (value)"

_AGGREGATE = """
    SELECT k, w, count(*), sum(e.value) FROM unnest($1::bytea[]) AS k
    CROSS JOIN unnest($2::bigint[]) AS w
    JOIN bench_events e ON e.entity_key = k AND e.known_at < $3
        AND e.known_at >= $3 - w * interval '1 microsecond'
    GROUP BY k, w
"""
