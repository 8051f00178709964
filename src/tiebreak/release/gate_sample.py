"""A sample of shadow scores and decisions, made again: the same bits, how fast, what is missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from tiebreak.core.arbitrate import Route
from tiebreak.core.decide import Decisions, decide
from tiebreak.core.policy import Policy
from tiebreak.core.stored import Columns as Given
from tiebreak.core.stored import loaded_columns
from tiebreak.core.tickets import ticket_schema
from tiebreak.decisions.replay import EXPECTED, SCORE_TOLERANCE, Cause, replay
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.release.gate_columns import EPOCH, Pair, sampled
from tiebreak.release.gate_results import Again, Missing
from tiebreak.store import contexts, kept
from tiebreak.store.columns import Columns, moments
from tiebreak.store.database import Database

Row = dict[str, Any]
Drawn = list[list[Any]]  # `as_of`, ids and revisions of what was drawn
_KEY = ("as_of", "ticket_id", "revision")
EXACT = ("band", "route", "rules_band", "model_band", "hard_floor", "is_tie")
CLOSE = ("margin", "score")


@dataclass(frozen=True, slots=True)
class Sampler:
    """What is drawn of tickets until a moment: so many, the same ones for the same seed."""

    db: Database
    library: PolicyLibrary
    entity_secret: bytes
    pair: Pair
    seed: int
    size: int

    async def draw(self, columns: Columns) -> Drawn:
        """Of these scores, the keys of the sample."""
        chosen = sampled(columns, self.seed, self.size)
        at = [EPOCH + timedelta(microseconds=each) for each in moments(chosen["as_of"]).tolist()]
        keys = (at, chosen["ticket"].tolist(), chosen["revision"].tolist())
        pair = self.pair
        async with self.db.connection() as conn:
            rows = await conn.fetch(_NAMED, *keys, pair.workflow, pair.policy_hash)
        return [[row[name] for row in rows] for name in _KEY]

    async def scores(self, drawn: Drawn, policy: Policy) -> Again:
        """Shadow scores made again by the candidate."""
        rows = await self._scored(drawn)
        erased = len(drawn[0]) - len(rows)
        if not rows:
            return Again(0, 0, 0, None, erased=erased)
        try:
            given = await self._given(rows, policy)
            decisions, seconds = await asyncio.to_thread(_timed, given, policy)
        except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001 - it is told
            # Its name alone: messages of libraries may quote values.
            problem = f"The candidate fails on the sample: {type(error).__name__}."
            return Again(len(rows), len(rows), 0, None, problem, erased)
        return replace(_again(rows, decisions, seconds), erased=erased)

    async def missing(self, drawn: Drawn, policy: Policy) -> Missing | None:
        """What the features of the candidate's model miss on live tickets, and on imported ones.

        None without a model, and when its features cannot be made, which is no evidence either.
        """
        if policy.model is None:
            return None
        live = await self._scored(drawn)
        async with self.db.connection() as conn:
            found = await conn.fetch(_IMPORTED, self.pair.workflow, self.seed, self.size)
        past = [dict(row) for row in found]
        try:
            lacking = [await self._absent(rows, policy) for rows in (live, past)]
        except (Exception, pl.exceptions.PanicException):  # noqa: BLE001 - whatever it is
            return None
        return Missing(lacking[0], lacking[1], len(live), len(past))

    async def decisions(self, drawn: Drawn, production: Policy) -> Again:
        """Production's decisions on the same tickets, replayed."""
        keys = (*drawn, self.pair.workflow)
        async with self.db.connection() as conn:
            decided = await conn.fetch(_DECISIONS, *keys, self.pair.production)
            found = [dict(row) for row in decided]
            tickets = [dict(row) for row in await conn.fetch(_TICKETS, *keys)]
        by_key = {_key(row): row for row in tickets}
        pairs = [(row, by_key[_key(row)]) for row in found if _key(row) in by_key]
        if not pairs:
            return Again(0, 0, 0, None)

        report = await replay(_whole(pairs), self.library)
        given = await self._given([ticket for _, ticket in pairs], production)
        _, seconds = await asyncio.to_thread(_timed, given, production)
        compared = report.total - report.counts[Cause.ERASED]
        different = sum(n for cause, n in report.counts.items() if cause not in EXPECTED)
        return Again(compared, different, report.counts[Cause.FINGERPRINT], seconds)

    async def _scored(self, drawn: Drawn) -> list[Row]:
        """The scores of the sample with their tickets, without erased ones."""
        pair = self.pair
        async with self.db.connection() as conn:
            found = await conn.fetch(_SCORES, *drawn, pair.workflow, pair.policy_hash)
        return [dict(row) for row in found]

    async def _given(self, rows: Sequence[Row], policy: Policy) -> Given:
        """The tickets as the policy takes them; context that they were not given, from the log."""
        plan = policy.features_plan.history
        fields, context = loaded_columns(rows, ticket_schema(policy.workflow), plan.context_columns)
        if not any(column.null_count() for column in context):
            return fields, context
        async with self.db.connection() as conn, conn.transaction(readonly=True):
            log = await kept.kept(conn, policy.workflow.name, plan)
            whole = await contexts.complete(conn, log, fields, context, self.entity_secret)
        return fields, whole

    async def _absent(self, rows: Sequence[Row], policy: Policy) -> dict[str, float]:
        """The share of tickets in which each feature of the model is missing."""
        assert policy.model is not None
        names = [spec.name for spec in policy.model.features]
        if not rows:
            return dict.fromkeys(names, 0.0)
        frame, _ = policy.features_plan.columns(*await self._given(rows, policy))
        return _absent(frame, names)


async def _whole(pairs: Sequence[tuple[Row, Row]]) -> AsyncIterator[Sequence[tuple[Row, Row]]]:
    yield pairs


def _timed(given: Given, policy: Policy) -> tuple[Decisions, float]:
    """Decisions, and seconds a ticket once everything is compiled."""
    decide(given[0].head(2), given[1].head(2), policy)
    begun = time.perf_counter()
    decisions = decide(*given, policy)
    return decisions, (time.perf_counter() - begun) / decisions.height


def _again(rows: Sequence[Row], decisions: Decisions, seconds: float) -> Again:
    """Equal columns are equal bits; other engines may differ by SCORE_TOLERANCE in scores."""
    then, now = pl.DataFrame(_stored(rows)), pl.DataFrame(_made(decisions))
    is_here = np.array([row["fingerprint"] == engine_fingerprint().hash for row in rows])
    equal = np.ones(len(rows), dtype=np.bool_)
    close = np.ones(len(rows), dtype=np.bool_)
    for name in EXACT:
        equal &= then[name].eq_missing(now[name]).to_numpy()
    for name in CLOSE:
        same = then[name].eq_missing(now[name]).to_numpy()
        gap = (then[name] - now[name]).abs().fill_null(float("inf")).to_numpy()
        close &= same | (gap <= SCORE_TOLERANCE)
        is_same = same | (~is_here & (gap <= SCORE_TOLERANCE))
        equal &= is_same
    return Again(len(rows), int((~equal).sum()), int((equal & ~is_here).sum()), seconds)


def _stored(rows: Sequence[Row]) -> Mapping[str, pl.Series]:
    types = {**dict.fromkeys(EXACT, pl.Int64), **dict.fromkeys(CLOSE, pl.Float64)}
    types |= {"route": pl.String, "is_tie": pl.Boolean}
    return {name: pl.Series([row[name] for row in rows], dtype=t) for name, t in types.items()}


def _made(decisions: Decisions) -> Mapping[str, pl.Series]:
    verdict, rules, model = decisions.arbitration, decisions.rules, decisions.model
    count = decisions.height
    nothing = pl.Series([None] * count, dtype=pl.Float64)
    floor = pl.Series(rules.hard_floor.astype(np.int64))
    labels = np.array([route.label for route in Route])
    return {
        "band": pl.Series(verdict.band.astype(np.int64)),
        "route": pl.Series(labels[verdict.route].tolist(), dtype=pl.String),
        "rules_band": pl.Series(rules.band.astype(np.int64)),
        "model_band": nothing.cast(pl.Int64)
        if model is None
        else pl.Series(model.band.astype(np.int64)),
        "hard_floor": floor.set(floor == 0, None),
        "is_tie": pl.Series(verdict.is_tie),
        "margin": nothing if model is None else pl.Series(model.margin),
        "score": nothing if model is None else pl.Series(model.score),
    }


def _absent(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, float]:
    """The share of rows in which each feature is null or NaN, of at least one."""
    is_absent = [
        (pl.col(n).is_null() | (pl.col(n).is_nan() if frame[n].dtype.is_float() else False)).mean()
        for n in names
    ]
    found = frame.select(each.alias(name) for each, name in zip(is_absent, names, strict=True))
    return dict(zip(names, (float(value) for value in found.row(0)), strict=True))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


_DRAWN = "unnest($1::timestamptz[], $2::text[], $3::int[]) AS drawn (as_of, ticket_id, revision)"
# By the key's index for each: `OFFSET 0` keeps Postgres from reading a year to join it.
_NAMED = """
    SELECT drawn.as_of, s.ticket_id, drawn.revision
    FROM unnest($1::timestamptz[], $2::int8[], $3::int[]) AS drawn (as_of, ticket, revision),
    LATERAL (
        SELECT ticket_id FROM ml_shadow_scores
        WHERE as_of = drawn.as_of AND workflow = $4 AND policy_hash = $5
          AND revision = drawn.revision AND hashtextextended(ticket_id, 0) = drawn.ticket
        OFFSET 0) s
"""
_SCORES = f"""
    SELECT s.*, t.content, t.context, t.ticket_hash, t.origin
    FROM {_DRAWN} JOIN ml_shadow_scores s USING (as_of, ticket_id, revision)
    JOIN tickets t USING (as_of, ticket_id, revision, workflow)
    WHERE workflow = $4 AND s.policy_hash = $5 AND t.content IS NOT NULL
    ORDER BY as_of, ticket_id, revision
"""  # noqa: S608
_TICKETS = f"""
    SELECT t.* FROM {_DRAWN} JOIN tickets t USING (as_of, ticket_id, revision)
    WHERE t.workflow = $4 AND t.content IS NOT NULL
"""  # noqa: S608
_DECISIONS = f"""
    SELECT t.* FROM {_DRAWN} JOIN decisions t USING (as_of, ticket_id, revision)
    WHERE t.workflow = $4 AND t.policy_hash = $5
"""  # noqa: S608
_IMPORTED = """
    SELECT t.as_of, t.content, t.context, t.ticket_hash FROM (
        SELECT k.as_of, k.workflow, k.ticket_id, k.revision FROM ticket_keys k
        WHERE k.workflow = $1 AND k.origin = 'import'
        ORDER BY hashtextextended(k.ticket_id, $2), k.revision LIMIT $3) s
    JOIN tickets t ON t.as_of = s.as_of AND t.workflow = s.workflow
        AND t.ticket_id = s.ticket_id AND t.revision = s.revision
    WHERE t.content IS NOT NULL
"""
