"""What a micro-batch of 32 tickets costs to read from the history log, as the log grows.

Each ticket has three entities and two windows of each. A thousand entities share all rows, so in a
larger log each of them is busier. The alternative aggregates raw events, indexed by entity and
time.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg

from bench.memory import watched
from bench.stage import stage
from tiebreak.embedded.stack import Services, stack
from tiebreak.settings import Settings

ROWS = (10_000, 1_000_000, 10_000_000)
ENTITIES = 1_000
TICKETS = 32
KINDS = 3
DAY_US = 86_400_000_000
WINDOWS_US = (30 * DAY_US, 180 * DAY_US)
UNTIL = datetime(2026, 1, 1, tzinfo=UTC)  # rows cover the year before, evenly
TIMES = 60
TIMES_RAW = 5


def run() -> dict[str, Any]:
    """Milliseconds a micro-batch by size of the log, and how much the largest costs more."""
    with stack(Settings(data_dir=stage().data_dir)) as services:
        assert services.postgres is not None
        with watched(services.postgres.pid) as peak:
            ours, raw = asyncio.run(_measure(services))
    return {
        "tiebreak": {"milliseconds": ours, "peak_memory_mib": peak.mib},
        "growth": round(ours[str(ROWS[-1])] / ours[str(ROWS[0])], 2),
        "alternative": {"name": "aggregates of raw events", "milliseconds": raw},
        "ratio": round(raw[str(ROWS[-1])] / ours[str(ROWS[-1])], 1),
    }


async def _measure(services: Services) -> tuple[dict[str, float], dict[str, float]]:
    address = services.settings.database.owner_url
    assert address is not None
    conn = await asyncpg.connect(address.get_secret_value())
    ours: dict[str, float] = {}
    raw: dict[str, float] = {}
    try:
        for rows in ROWS:
            name = f"bench-{rows}"
            await conn.execute(_LOG, name, rows, ENTITIES, UNTIL, timeout=1_200)
            await conn.execute(_EVENTS, timeout=1_200)
            await conn.execute(_FILL, name, timeout=1_200)
            await conn.execute(_INDEX, timeout=1_200)
            await conn.execute("VACUUM ANALYZE history_log", timeout=1_200)
            ours[str(rows)] = await _ours(conn, name)
            raw[str(rows)] = await _raw(conn)
            await conn.execute("DROP TABLE bench_events")
    finally:
        await conn.close()
    return ours, raw


async def _ours(conn: asyncpg.Connection, name: str) -> float:
    windows = [0, *WINDOWS_US]
    firsts = [kind * TICKETS for kind in range(KINDS) for _ in windows]
    query = "SELECT * FROM history_probe($1, 1, $2, $3, $4, $5, $6)"
    return await _median(
        conn,
        TIMES,
        query,
        lambda keys: (
            name,
            UNTIL,
            b"".join(keys),
            firsts,
            [TICKETS] * len(firsts),
            windows * KINDS,
        ),
    )


async def _raw(conn: asyncpg.Connection) -> float:
    return await _median(conn, TIMES_RAW, _AGGREGATE, lambda keys: (keys, WINDOWS_US, UNTIL))


async def _median(
    conn: asyncpg.Connection,
    times: int,
    query: str,
    arguments: Callable[[list[bytes]], tuple[object, ...]],
) -> float:
    chance = random.Random(1)
    taken: list[float] = []
    for _ in range(times + 5):
        numbers = chance.sample(range(ENTITIES), KINDS * TICKETS)
        keys = [hashlib.md5(str(n).encode(), usedforsecurity=False).digest() for n in numbers]
        begun = time.perf_counter()
        await conn.fetch(query, *arguments(keys))
        taken.append((time.perf_counter() - begun) * 1e3)
    return round(statistics.median(taken[5:]), 2)


_LOG = """
    INSERT INTO history_log (workflow, generation, entity_key, known_at, totals)
    SELECT $1::text, 1, decode(md5((i % $3::int)::text), 'hex'),
        $4::timestamptz - (($2::int - i) * (31536000.0 / $2::int)) * interval '1 second',
        ARRAY[i, i, i, i, i, i]::bigint[]
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
