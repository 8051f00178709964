"""What a candidate scored beside what production decided, and what became of it, as columns."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.expressions import Type, compile_expression
from tiebreak.core.scopes import event_scope
from tiebreak.core.tickets import Schema, outcome_schema
from tiebreak.core.workflow import EventKind, Workflow
from tiebreak.store.columns import Columns, fixed, frames, moments
from tiebreak.store.database import Database

Bools = NDArray[np.bool_]
DAY_MICROSECONDS = 86_400_000_000
MOST_SLICES = 40  # of a field
_ORDER = ("ticket", "revision", "ordinal")
_TYPES = {
    "as_of": "i8",
    "ticket": "i8",  # a hash of its id, which is as wide for every ticket
    "revision": "i4",
    "ordinal": "i4",  # of production's decision
    "score": "f8",  # NaN where the candidate has none
    "band": "i2",
    "floor": "i2",
    "route": "i2",
    "seconds": "f8",
    "score_before": "f8",
    "points_before": "f8",
    "band_before": "i2",
    "floor_before": "i2",
    "route_before": "i2",
    "is_live": "i2",
}
REVIEW = 2


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose scores are compared with whose decisions; `production` None: the candidate's rules."""

    workflow: str
    policy_hash: str
    production: str | None


@dataclass(frozen=True, eq=False)
class Scored:
    """Tickets by their newest scored revision; arrays of (n,), in no order that means anything."""

    columns: Columns
    truth: NDArray[np.int8]  # 1: a bad end, 0: a good one, -1: not known or not mature

    @property
    def count(self) -> int:
        """How many tickets there are."""
        return len(self.columns)

    @property
    def is_labelled(self) -> Bools:
        """Which tickets have a mature label."""
        return self.truth >= 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]


async def read_scored(
    db: Database, pair: Pair, workflow: Workflow, *, known_by: datetime
) -> Scored:
    """All tickets that the candidate scored and that production, as it is today, decided.

    Tickets that came in after `known_by` do not count, nor labels that were not mature by then.
    """
    if workflow.label is None:
        columns = await _columns(db, pair, known_by)
        return Scored(columns, np.full(len(columns), -1, dtype=np.int8))
    columns, told = await asyncio.gather(
        _columns(db, pair, known_by), _told(db, pair, workflow, known_by)
    )
    return Scored(columns, _truth(columns, told, workflow, known_by))


async def read_slices(
    db: Database, pair: Pair, scored: Scored, field: str
) -> dict[str, NDArray[np.int64]]:
    """The tickets of each value of a field, the largest slices first; as places in `scored`."""
    schema = {"ticket": pl.Int64, "revision": pl.Int32, "value": pl.String}
    arguments = (pair.workflow, pair.policy_hash, field)
    parts = [part async for part in frames(db, _SLICE, *arguments, schema=schema)]
    places = pl.DataFrame(
        {"ticket": scored["ticket"], "revision": scored["revision"]}
    ).with_row_index("place")
    joined = pl.concat([pl.DataFrame(schema=schema), *parts]).join(
        places, on=["ticket", "revision"], how="inner"
    )
    grouped = (
        joined.group_by("value")
        .agg("place")
        .sort(pl.col("place").list.len(), "value", descending=[True, False])
    )
    return {
        "(none)" if value is None else value: np.sort(np.asarray(place, dtype=np.int64))
        for value, place in grouped.head(MOST_SLICES).iter_rows()
    }


async def _columns(db: Database, pair: Pair, known_by: datetime) -> Columns:
    if pair.production is None:
        found = await fixed(db, _ALONE, pair.workflow, pair.policy_hash, types=_TYPES)
    else:
        arguments = (pair.workflow, pair.policy_hash, pair.production)
        found = await fixed(db, _BESIDE, *arguments, types=_TYPES)
    is_known = moments(found["as_of"]) <= int(known_by.timestamp() * 1e6)
    return _newest(found[is_known])


def _newest(columns: Columns) -> Columns:
    """Of each ticket its newest revision, and the newest decision on that."""
    order = np.lexsort(tuple(columns[name] for name in reversed(_ORDER)))
    ticket = columns["ticket"][order]
    is_last = np.append(ticket[1:] != ticket[:-1], True)[: len(ticket)]
    return columns[order[is_last]]


async def _told(db: Database, pair: Pair, workflow: Workflow, known_by: datetime) -> pl.DataFrame:
    """The newest label of each ticket that was told of by then: `ticket`, `label`."""
    label = workflow.label
    assert label is not None
    scope = event_scope(workflow, EventKind.OUTCOME)
    expression = compile_expression(label.sql, scope, expect=frozenset({Type.BOOLEAN}))
    fields = outcome_schema(workflow).fields
    schema = Schema(tuple(field for field in fields if field.name in expression.names))
    row = {"ticket": pl.Int64, "ordinal": pl.Int32, "content": pl.String}
    arguments = (pair.workflow, pair.policy_hash, known_by)
    parts = [pl.DataFrame(schema={"ticket": pl.Int64, "ordinal": pl.Int32, "label": pl.Boolean})]
    async for part in frames(db, _OUTCOMES, *arguments, schema=row):
        content = schema.load_frame(part["content"].to_list())
        value = content.select(label=expression.value).to_series()
        parts.append(part.select("ticket", "ordinal").with_columns(value).drop_nulls("label"))
    return pl.concat(parts).sort("ordinal").group_by("ticket").last().drop("ordinal")


def _truth(
    columns: Columns, told: pl.DataFrame, workflow: Workflow, known_by: datetime
) -> NDArray[np.int8]:
    label = workflow.label
    assert label is not None
    absent = {"unknown": -1, "negative": 0, "positive": 1}[label.absent]
    found = (
        pl.DataFrame({"ticket": columns["ticket"]})
        .join(told, on="ticket", how="left", maintain_order="left")["label"]
        .cast(pl.Int8)
        .fill_null(absent)
        .to_numpy()
    )
    mature_at = moments(columns["as_of"]) + int(label.maturity_days * DAY_MICROSECONDS)
    is_mature = mature_at <= int(known_by.timestamp() * 1e6)
    return np.where(is_mature, found, -1).astype(np.int8)


_CANDIDATE = """
    s.as_of, hashtextextended(s.ticket_id, 0), s.revision, {ordinal},
    coalesce(s.score, 'NaN'), s.band, coalesce(s.hard_floor, 0::int2),
    CASE s.route WHEN 'review' THEN 2 WHEN 'tiebreak' THEN 1 ELSE 0 END::int2, s.seconds
"""
_KEYS = """
    JOIN ticket_keys k ON k.workflow = s.workflow AND k.ticket_id = s.ticket_id
        AND k.revision = s.revision
    WHERE s.workflow = $1 AND s.policy_hash = $2
"""
_BESIDE = f"""
    SELECT {_CANDIDATE.format(ordinal="d.ordinal")},
        coalesce(d.score, 'NaN'), d.rules_points::float8, d.band,
        coalesce(d.hard_floor, 0::int2),
        CASE d.route WHEN 'review' THEN 2 WHEN 'tiebreak' THEN 1 ELSE 0 END::int2,
        (k.origin <> 'import')::int::int2
    FROM ml_shadow_scores s
    JOIN decisions d ON d.as_of = s.as_of AND d.workflow = s.workflow
        AND d.ticket_id = s.ticket_id AND d.revision = s.revision AND d.policy_hash = $3
    {_KEYS}
"""  # noqa: S608
_ALONE = f"""
    SELECT {_CANDIDATE.format(ordinal="1")},
        'NaN'::float8, s.rules_band::float8, s.rules_band, 0::int2, 0::int2,
        (k.origin <> 'import')::int::int2
    FROM ml_shadow_scores s {_KEYS}
"""  # noqa: S608
_OUTCOMES = """
    SELECT hashtextextended(o.ticket_id, 0) AS ticket, o.ordinal, o.content
    FROM outcomes o
    WHERE o.workflow = $1 AND o.kind = 'outcome' AND o.known_at <= $3 AND o.content IS NOT NULL
      AND o.ticket_id IN (
        SELECT ticket_id FROM ml_shadow_scores WHERE workflow = $1 AND policy_hash = $2)
"""
_SLICE = """
    SELECT hashtextextended(t.ticket_id, 0) AS ticket, t.revision,
           t.content::json ->> $3 AS value
    FROM ml_shadow_scores s JOIN tickets t ON t.as_of = s.as_of AND t.workflow = s.workflow
        AND t.ticket_id = s.ticket_id AND t.revision = s.revision
    WHERE s.workflow = $1 AND s.policy_hash = $2 AND t.content IS NOT NULL
"""
