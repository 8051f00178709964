"""Context that tickets were not given when they were admitted, read from the log afterwards.

A ticket is given what the policy of its day reads. What a later version reads besides is in the
log, at the ticket's own `as_of`: the same totals that admission would have found.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from tiebreak.core.readings import Probe
from tiebreak.core.totals import Flags, Ints, initial
from tiebreak.store.history import keys_of
from tiebreak.store.kept import Kept, order_of, stored_slots
from tiebreak.store.unit import Connection


async def complete(
    conn: Connection, kept: Kept, tickets: pl.DataFrame, context: pl.DataFrame, secret: bytes
) -> pl.DataFrame:
    """The context with its gaps filled from the log; what was given at admission stays.

    `tickets` holds fields and `as_of`, `context` every context column of the plan in the same
    row order. What is null because nothing was known by then stays null.
    """
    plan = kept.plan
    keys = keys_of(plan, tickets, secret)
    has = {entity: np.array([key is not None for key in of]) for entity, of in keys.items()}
    asked: dict[Probe, Flags] = {}
    for column, probes in plan.context_probes.items():
        gaps = context[column].is_null().to_numpy() & has[probes[0].entity]
        for probe in probes:
            asked[probe] = asked.get(probe, np.zeros_like(gaps)) | gaps
    if not any(rows.any() for rows in asked.values()):
        return context
    totals: dict[Probe, tuple[Ints, Flags]] = {}
    for probe, gaps in asked.items():
        rows = np.flatnonzero(gaps)
        known_keys = [key for row in rows if (key := keys[probe.entity][row]) is not None]
        table = np.tile(initial(plan.slots[probe.entity]), (tickets.height, 1))
        times = tickets["as_of"].gather(rows).to_list()
        places, found = await _newest(conn, kept, probe, known_keys, times)
        table[rows[places]] = found
        totals[probe] = (table, has[probe.entity])
    known = plan.context(tickets["as_of"].dt.epoch("us").to_numpy(), totals)
    return context.select(pl.coalesce(column, known[column]) for column in context.columns)


async def _newest(
    conn: Connection, kept: Kept, probe: Probe, keys: list[bytes], times: list[datetime]
) -> tuple[Ints, Ints]:
    """Of which keys anything was known before their times, and the totals, in the plan's order."""
    name, width = kept.plan.workflow.name, len(kept.plan.slots[probe.entity])
    found = await conn.fetch(_TOTALS, name, kept.generation, keys, times, probe.window_us or 0)
    if not found:
        return np.empty(0, dtype=np.int64), np.empty((0, width), dtype=np.int64)
    order = order_of(kept.plan, await stored_slots(conn, name, kept.generation))
    assert order is not None
    stored = np.array([row["totals"] for row in found], dtype=np.int64)
    places = np.array([row["place"] - 1 for row in found], dtype=np.int64)
    return places, stored[:, order[probe.entity]]


_TOTALS = """
    SELECT asked.place, newest.totals
    FROM unnest($3::bytea[], $4::timestamptz[])
        WITH ORDINALITY AS asked (entity_key, as_of, place)
    CROSS JOIN LATERAL (
        SELECT l.totals FROM history_log l
        WHERE l.workflow = $1 AND l.generation = $2 AND l.entity_key = asked.entity_key
          AND l.known_at < asked.as_of - $5::bigint * interval '1 microsecond'
        ORDER BY l.known_at DESC LIMIT 1) AS newest
"""
