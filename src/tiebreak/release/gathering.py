"""Gathering: all that the gates look at, read from the store and made again."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tiebreak.backtest.evidence import AlteredBacktest, Evidence, NoSuchBacktest
from tiebreak.backtest.finished import UnsealedBacktest, check_sealed
from tiebreak.core.policy import Policy
from tiebreak.core.release_plan import ReleasePlan
from tiebreak.core.workflow import Workflow
from tiebreak.release.events import Event, events_of
from tiebreak.release.gate_columns import (
    DAY_MICROSECONDS,
    REVIEW,
    Bools,
    Pair,
    Scored,
    Sides,
    read_sides,
)
from tiebreak.release.gate_coverage import count_unscored, cover, read_times
from tiebreak.release.gate_results import Again, CanaryRun, Coverage, Gathered, Missing
from tiebreak.release.gate_sample import Sampler
from tiebreak.release.gate_statistics import Compared, compare
from tiebreak.release.gate_texts import Slices, label_problem, read_slices, read_truth
from tiebreak.release.plans import production_of
from tiebreak.release.releases import Office, Release
from tiebreak.release.states import Kind, Stage
from tiebreak.store.columns import Columns
from tiebreak.store.database import Database

Floats = NDArray[np.float64]
LEAST_OF_EITHER = 2  # labels, below which nothing is compared
LEAST_CAPACITY = 0.01  # share of tickets, where production sends hardly any to review


async def gather(
    office: Office,
    evidence: Evidence,
    release: Release,
    stage: Stage,
    plan: ReleasePlan,
    *,
    known_by: datetime,
) -> Gathered:
    """Everything about a release as it is now, with labels known by a moment."""
    db, library = office.db, office.library
    loaded = await library.verified(await library.parts(release.policy_hash))
    candidate = loaded.policy
    before = await production_of(db, release)
    production = None if before is None else (await library.get(before)).policy
    pair = Pair(release.workflow, release.policy_hash, before)
    seed = seed_of(release, known_by)
    events = await events_of(db, release.release_id)
    times = await read_times(db, release, events, known_by=known_by)
    sides = await read_sides(db, pair, times.since, times.through, known_by=known_by)
    columns = await asyncio.to_thread(sides.paired)
    size = plan.gates.replay.sample
    sampler = Sampler(db, library, office.keyring.entity_key, pair, seed, size)
    unscored = await count_unscored(db, office.keyring.sampling_key, pair, sides, columns, times)
    coverage = cover(release, events, times, unscored)
    ranking = _ranking(columns, candidate, production)
    capacity = _capacity(plan, columns, coverage)

    async def labelled() -> tuple[Scored, Bools, Compared | None]:
        truth = await read_truth(db, columns, candidate.workflow, known_by=known_by)
        scored = Scored(columns, truth)
        usable = scored.is_labelled & ~np.isnan(ranking[0]) & ~np.isnan(ranking[1])
        found = await asyncio.to_thread(_compared, ranking, usable, scored, capacity, seed)
        return scored, usable, found

    (
        (scored, usable, compared),
        slices,
        (scores_again, missing, decisions_again),
    ) = await asyncio.gather(
        labelled(),
        _slices(db, columns, plan, candidate.workflow, production),
        _again(sampler, sides, columns, candidate, production),
    )
    backtest, problem = await _backtest(office, evidence, release, before)
    return Gathered(
        stage=stage,
        plan=plan,
        seed=seed,
        scored=scored,
        slices=slices,
        coverage=coverage,
        candidate=candidate,
        model_problem="" if loaded.problem is None else loaded.problem.message,
        production=production,
        base_seq=release.base_seq,
        production_seq=await db.pool.fetchval("SELECT production_seq($1)", release.workflow),
        scores_again=scores_again,
        decisions_again=decisions_again,
        missing=missing,
        backtest=backtest,
        backtest_problem=problem,
        canary=await _canary(db, release, events, known_by),
        reviewed=await _reviewed(db, pair, known_by),
        label_problem=label_problem(candidate.workflow.label),
        compared=compared,
        ranking=ranking,
        usable=usable,
    )


def seed_of(release: Release, known_by: datetime) -> int:
    """The seed of an evaluation, of 62 bits; it follows from what is evaluated and when."""
    text = f"{release.release_id}/{release.policy_hash}/{release.base_seq}/{known_by.isoformat()}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2


async def _again(
    sampler: Sampler, sides: Sides, columns: Columns, candidate: Policy, production: Policy | None
) -> tuple[Again, Missing | None, Again]:
    """A sample of what is compared, made again by both; and what live tickets miss."""
    drawn = await sampler.draw(columns)
    scores = await sampler.scores(drawn, candidate)
    missing = await sampler.missing(await sampler.draw(sides.live()), candidate)
    if production is None:
        return scores, missing, Again(0, 0, 0, None)
    return scores, missing, await sampler.decisions(drawn, production)


def _ranking(
    columns: Columns, candidate: Policy, production: Policy | None
) -> tuple[Floats, Floats]:
    """What both are ranked by: the model's score, else the rules' points, else the band.

    A candidate without a model has bands alone in shadow, so bands are compared then.
    """
    if candidate.parts.bundle_digest is None:
        return columns["band"].astype(np.float64), columns["band_before"].astype(np.float64)
    has_model = production is not None and production.parts.bundle_digest is not None
    return columns["score"], columns["score_before" if has_model else "points_before"]


def _capacity(plan: ReleasePlan, columns: Columns, coverage: Coverage) -> float:
    """The share of the tickets that reviewers can look at."""
    if not len(columns):
        return LEAST_CAPACITY
    if plan.reviews_per_day is None:
        share = float((columns["route_before"] == REVIEW).mean())
    else:
        days = max(float(np.ptp(columns["as_of"])) / DAY_MICROSECONDS, 1.0)
        share = plan.reviews_per_day * days * coverage.share / len(columns)
    return min(max(share, LEAST_CAPACITY), 1.0)


def _compared(
    ranking: tuple[Floats, Floats],
    usable: Bools,
    scored: Scored,
    capacity: float,
    seed: int,
) -> Compared | None:
    truth = scored.truth[usable] == 1
    if min(truth.sum(), (~truth).sum()) < LEAST_OF_EITHER:
        return None
    return compare(ranking[0][usable], ranking[1][usable], truth, share=capacity, seed=seed)


async def _slices(
    db: Database,
    columns: Columns,
    plan: ReleasePlan,
    workflow: Workflow,
    production: Policy | None,
) -> dict[str, Slices]:
    """By the fields that production's version names; of one that the candidate lacks, nothing."""
    if plan.gates.slices is None:
        return {}
    known = {field.name for field in workflow.fields if not field.pii}
    named = (workflow if production is None else production.workflow).slices
    read = await read_slices(db, workflow.name, columns, [each for each in named if each in known])
    return {field: read.get(field, {}) for field in named}


async def _backtest(
    office: Office, evidence: Evidence, release: Release, production: str | None
) -> tuple[dict[str, Any] | None, str]:
    """What the release's backtest found, or why it is no evidence."""
    try:
        made = await asyncio.to_thread(evidence.get, release.backtest_id)
        async with office.db.connection() as conn:
            await check_sealed(conn, office.keyring, made)
    except (NoSuchBacktest, AlteredBacktest, UnsealedBacktest) as error:
        return None, f"Backtest {release.backtest_id[:12]}: {error.message}"
    found = made.evidence
    if found["policy_hash"] != release.policy_hash:
        return None, "The backtest is of another policy."
    if found["baseline"]["production"] != production:
        return None, "The backtest compares with another policy than the one in production."
    return dict(found), ""


async def _canary(
    db: Database, release: Release, events: list[Event], known_by: datetime
) -> CanaryRun | None:
    """The newest run of the canary, on tickets until a moment."""
    starts = [place for place, e in enumerate(events) if e.kind is Kind.CANARY_STARTED]
    if not starts:
        return None
    run = events[starts[-1] :]
    since = [event.kind for event in run]
    is_finished = Kind.CANARY_FINISHED in since and Kind.CANARY_ROLLED_BACK not in since
    async with db.connection() as conn:
        row = await conn.fetchrow(
            _CANARY, release.workflow, release.policy_hash, run[0].at, known_by
        )
    assert row is not None
    early = tuple(str(event.detail["early"]) for event in run if "early" in event.detail)
    return CanaryRun(is_finished, row["decided"], row["failed"], row["below"], early)


async def _reviewed(db: Database, pair: Pair, known_by: datetime) -> tuple[int, int]:
    if pair.production is None:
        return 0, 0
    async with db.connection() as conn:
        told = (pair.workflow, pair.policy_hash, pair.production, known_by)
        row = await conn.fetchrow(_REVIEWED, *told)
    assert row is not None
    return row["judged"], row["agreeing"]


def hash_of(scored: Scored) -> str:
    """SHA-256 in hex over the scored tickets and their labels, in order of tickets."""
    digest = hashlib.sha256(orjson.dumps(scored.columns.dtype.names))
    digest.update(scored.columns.tobytes())
    digest.update(scored.truth.tobytes())
    return digest.hexdigest()


_CANARY = """
    SELECT count(*) AS decided, count(*) FILTER (WHERE model_status = 'failed') AS failed,
           count(*) FILTER (WHERE band < hard_floor) AS below
    FROM decisions
    WHERE workflow = $1 AND policy_hash = $2 AND decided_at >= $3 AND as_of <= $4
"""
_REVIEWED = """
    SELECT count(*) AS judged,
           count(*) FILTER (WHERE abs(f.band - s.band) < abs(f.band - d.band)) AS agreeing
    FROM (
        SELECT DISTINCT ON (workflow, ticket_id) workflow, ticket_id, band FROM ml_feedback
        WHERE workflow = $1 AND given_at <= $4
        ORDER BY workflow, ticket_id, ordinal DESC) f
    JOIN ml_shadow_scores s ON s.workflow = f.workflow AND s.ticket_id = f.ticket_id
        AND s.policy_hash = $2
    JOIN decisions d ON d.as_of = s.as_of AND d.workflow = s.workflow
        AND d.ticket_id = s.ticket_id AND d.revision = s.revision AND d.policy_hash = $3
        AND d.ordinal = 1
    WHERE s.band <> d.band AND s.as_of <= $4
"""
