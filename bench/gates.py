"""The gates of a release over 1M shadow scores, with slices, labels and a bootstrap.

Tickets, decisions, scores and outcomes are made inside Postgres, the candidate is a small model.
The scores are drawn at random, so the gates say no; that costs what a yes costs. The alternative
makes the figures of the gates by hand, from the same database; a few of its replicates are timed
and the rest reckoned.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench import alternatives
from bench.memory import MIB, watched
from tiebreak.access.persons import ensure_person
from tiebreak.backtest import finished
from tiebreak.backtest.evidence import Evidence
from tiebreak.bundles.format import make_bundle
from tiebreak.cli.session import Session, opened
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Field, FieldType, Label, RowFeature, Rule, RuleSet, Workflow
from tiebreak.embedded.stack import Services, stack
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry import records
from tiebreak.release.evaluating import evaluate
from tiebreak.release.events import happen
from tiebreak.release.gate_results import Result
from tiebreak.release.gate_statistics import REPLICATES
from tiebreak.release.releases import Office, Release, propose
from tiebreak.release.states import Kind, Stage
from tiebreak.settings import Settings
from tiebreak.store import partitions
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Parameters
from tiebreak.training.train import train
from tiebreak.workflows import versions

TICKETS = 1_000_000
GOAL_SECONDS = 10
CLOSE = 1e-9
LOOPED = 5  # replicates of the alternative that are timed
NAME = "gated"
AUTHOR = "bench"
END = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
START = END - timedelta(days=60)
WORKFLOW = Workflow(
    name=NAME,
    title="Gated",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),
        Field(name="depth", type=FieldType.NUMBER),
        Field(name="place", type=FieldType.CATEGORY),
    ),
    outcome_fields=(Field(name="damage", type=FieldType.BOOLEAN),),
    features=(
        RowFeature(name="depth_m", sql="depth"),
        RowFeature(name="town", sql="place", kind="category"),
    ),
    label=Label(name="damage", sql="damage", maturity_days=1),
    slices=("place",),
)
RULES = RuleSet(
    rules=(Rule(id="deep", when="depth > 3", effect="points", points=30, message="Deep."),)
)


def run() -> dict[str, Any]:
    """Seconds of the first evaluation and of the next, and the memory that they take."""
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-bench-gates-"))
    try:
        with stack(Settings(data_dir=folder / "data")) as services:
            return asyncio.run(_measure(services))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _measure(services: Services) -> dict[str, Any]:
    async with opened(services, AUTHOR) as session:
        office = Office(session.db, session.lane, session.keyring, session.library())
        release, evidence = await _staged(session, office)
        seconds: list[float] = []
        with watched(os.getpid()) as peak:
            before = peak.mib
            for _ in range(2):
                begun = time.monotonic()
                found = await evaluate(
                    office, evidence, release.release_id, Stage.PROMOTION, actor=AUTHOR
                )
                seconds.append(round(time.monotonic() - begun, 2))
    address = services.settings.database.owner_url
    assert address is not None
    alternative = alternatives.run(
        "bench.gates_plain",
        url=address.get_secret_value(),
        workflow=NAME,
        candidate=release.policy_hash,
        production=found.told["evidence"]["production"],
        replicates=REPLICATES,
        looped=LOOPED,
    )
    _check(found.results, alternative.pop("figures"))
    return {
        "tiebreak": {
            "shadow_scores": TICKETS,
            "seconds": seconds[-1],
            "seconds_of_the_first": seconds[0],
            "memory_before_mib": before,
            "peak_memory_mib": peak.mib,
            "bytes_a_score": round((peak.mib - before) * MIB / TICKETS),
            "gates": len(found.results),
        },
        "alternative": {"name": "pandas + scikit-learn + a bootstrap loop", **alternative},
        "ratio": round(alternative["seconds"] / seconds[-1], 1),
        "goal_seconds": GOAL_SECONDS,
    }


def _check(results: Sequence[Result], figures: dict[str, list[float]]) -> None:
    """Both find the same."""
    for name in ("pr_auc", "auc"):
        one, other = figures[name]
        (found,) = (result.figure for result in results if result.gate == name)
        if found is None or abs(found - (one - other)) > CLOSE:
            raise RuntimeError(f"{name} differs: {found} and {one - other}")


async def _staged(session: Session, office: Office) -> tuple[Release, Evidence]:
    async with session.lane.unit() as unit:
        for person in (AUTHOR, "other"):
            await ensure_person(unit, person, actor=AUTHOR)
    await versions.load(session.lane, WORKFLOW, RULES, author=AUTHOR, reason="bench")
    production = PolicyParts(NAME, WORKFLOW.version, RULES.version)
    await records.install(
        session.lane,
        session.keyring,
        production,
        author=AUTHOR,
        approver="other",
        reason="bench",
    )
    digest = session.artifacts.put_bundle(make_bundle(_trained(), session.bundle_keys))
    candidate = replace(production, bundle_digest=digest)
    evidence = Evidence.of(session.settings)
    backtest = evidence.put(
        {
            "workflow": NAME,
            "policy_hash": candidate.hash,
            "baseline": {"production": production.hash},
            "window": {"since": START.isoformat(), "until": END.isoformat()},
            "figures": {"tickets": 0},
        },
        {"finished_at": END.isoformat()},
    )
    async with session.lane.unit() as unit:
        finished.note(unit, backtest, person=AUTHOR)
    release = await propose(office, candidate, backtest, author=AUTHOR, reason="bench")
    async with session.lane.unit() as unit:
        await records.lock(unit, NAME)
        await happen(unit, release.subject, Kind.SHADOW_STARTED, actor=AUTHOR)
    hashes = {"candidate": candidate.hash, "production": production.hash}
    async with session.db.connection() as conn:
        await partitions.ensure(conn, {START.year, END.year})
        for statement in _FILL:
            text = statement.format(tickets=TICKETS, name=NAME, engine=engine_fingerprint().hash)
            arguments = [value for name, value in hashes.items() if f"/*{name}*/" in statement]
            await conn.execute(text, START, *arguments, timeout=600)
        await conn.execute(_PROGRESS, release.release_id, END)
    return release, evidence


def _trained() -> dict[str, bytes]:
    random = np.random.default_rng(1)
    depth = random.gamma(2.0, 0.8, 5_000)
    moments = [START - timedelta(minutes=5_000 - i) for i in range(5_000)]
    snapshot = Snapshot(
        workflow=WORKFLOW,
        frame=pl.DataFrame(
            {"depth_m": depth, "town": [f"town {i}" for i in random.integers(0, 20, 5_000)]}
        ),
        label=pl.Series("label", random.random(5_000) < depth / 10),
        as_of=pl.Series("as_of", moments, dtype=pl.Datetime("us", "UTC")),
        data_hash="bench",
    )
    parameters = Parameters(valid_from=moments[4_000], rounds=50, max_depth=4)
    return train(snapshot, parameters, lambda _s, _x: None, fingerprint="bench").parts


_ROWS = """
    FROM (SELECT n, $1::timestamptz + n * interval '5 seconds' AS as_of,
          (hashtextextended('s' || n, 1) & 1048575) / 1048576.0 AS u
          FROM generate_series(1, {tickets}) AS n) AS r
"""
_SEAL = "decode('00', 'hex'), '00000000-0000-0000-0000-000000000000'::uuid, 0, 0"
_SEALED = "salt, lane, seal_seq, seal_position"
_FILL = (
    f"""
    INSERT INTO ticket_keys (workflow, ticket_id, revision, content_hash, as_of, origin)
    SELECT '{{name}}', 't' || n, 1, decode('00', 'hex'), as_of, 'live' {_ROWS}
    """,
    f"""
    INSERT INTO tickets (as_of, workflow, ticket_id, revision, received_at, origin, actor, content,
        context, ticket_hash, {_SEALED})
    SELECT as_of, '{{name}}', 't' || n, 1, as_of, 'live', 'bench',
        json_build_object('opened_at', '2026-01-01T00:00:00.000000Z', 'depth', u * 5,
                          'place', 'town ' || n % 20)::text, '{{{{}}}}',
        n, {_SEAL} {_ROWS}
    """,
    f"""
    INSERT INTO decisions (as_of, decision_id, workflow, ticket_id, revision, ordinal, decided_at,
        policy_hash, fingerprint, band, route, route_reason, is_tie, review_probability,
        rules_band, rules_points, fired, model_status, errors, {_SEALED})
    SELECT as_of, gen_random_uuid(), '{{name}}', 't' || n, 1, 1, as_of, $2 /*production*/,
        '{{engine}}', (u * 4)::int % 4, CASE WHEN u > 0.9 THEN 'review' ELSE 'auto' END, 'agreed',
        false, 0, (u * 4)::int % 4, (u * 100)::int, '[]', 'absent', '[]', {_SEAL} {_ROWS}
    """,
    f"""
    INSERT INTO ml_shadow_scores (as_of, workflow, ticket_id, revision, policy_hash, scored_at,
        band, route, margin, score, rules_band, model_band, is_tie, seconds, fingerprint)
    SELECT as_of, '{{name}}', 't' || n, 1, $2 /*candidate*/, as_of,
        (u * 4)::int % 4, 'auto', u, (u + random()) / 2.0, 0, 1, false, 0.001, '{{engine}}' {_ROWS}
    """,
    f"""
    INSERT INTO outcomes (workflow, ticket_id, ordinal, kind, known_at, received_at, actor, content,
        content_hash, {_SEALED})
    SELECT '{{name}}', 't' || n, 1, 'outcome', as_of, as_of, 'bench',
        json_build_object('damage', u * random() > 0.7)::text, decode('00', 'hex'), {_SEAL} {_ROWS}
    """,
)
_PROGRESS = """
    INSERT INTO shadow_progress (release_id, through, scored, updated_at) VALUES ($1, $2, 0, $2)
"""
