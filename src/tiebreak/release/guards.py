"""Guards: what a canary is watched by, beside production in the same time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tiebreak.core.bands import Band
from tiebreak.core.workflow import Workflow
from tiebreak.decisions.rows import CANARY_FAILED
from tiebreak.release.canary_plan import CanaryPlan
from tiebreak.release.sequential import NONE, Block, Counts, evidence, side_by_side
from tiebreak.store.database import Database
from tiebreak.training.labels import Labels, read_labels

BLOCK = timedelta(seconds=10)
GUARDS = ("errors", "model_failures", "slow", "more_high", "less_high", "missed")


@dataclass(frozen=True, slots=True)
class Watched:
    """A canary against its production, from the moment it began to decide."""

    workflow: Workflow
    release_id: UUID
    canary: str  # policy hash
    production: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Guard:
    """What one guard found so far."""

    name: str
    canary: float | None  # rate
    production: float | None
    canary_count: int
    production_count: int
    e_value: float  # above `limit`: the canary does worse
    limit: float

    @property
    def is_harm(self) -> bool:
        """Whether the canary does worse, beyond what chance gives."""
        return self.e_value >= self.limit

    def as_data(self) -> dict[str, Any]:
        """The guard as plain data."""
        return {**asdict(self), "is_harm": self.is_harm}


async def look(db: Database, watched: Watched, plan: CanaryPlan) -> list[Guard]:
    """All guards of a canary, by everything that is decided for good."""
    blocks = await _decided(db, watched, plan)
    blocks["missed"] = await _missed(db, watched)
    return [_guard(name, side_by_side(blocks[name]), plan, watched.release_id) for name in GUARDS]


def _guard(name: str, blocks: Sequence[Block], plan: CanaryPlan, release_id: UUID) -> Guard:
    canary = sum((block.canary for block in blocks), NONE)
    production = sum((block.production for block in blocks), NONE)
    seed = (release_id.int << 8) | GUARDS.index(name)
    found = evidence(blocks, tolerance=getattr(plan.tolerances, name), seed=seed)
    return Guard(
        name,
        canary.rate,
        production.rate,
        canary.n,
        production.n,
        math.exp(min(found, 700.0)),
        len(GUARDS) / plan.alpha,  # all guards together: Bonferroni
    )


async def _decided(db: Database, watched: Watched, plan: CanaryPlan) -> dict[str, list[Block]]:
    """The blocks of every guard that needs nothing but decisions, oldest first."""
    async with db.connection() as conn:
        rows = await conn.fetch(
            _DECIDED,
            watched.workflow.name,
            watched.since,
            [watched.canary, watched.production],
            watched.canary,
            BLOCK,
            timedelta(seconds=plan.slow_seconds),
            f'%"code":"{CANARY_FAILED["code"]}"%',
        )
    found: dict[str, list[Block]] = {}
    for name in GUARDS[:-1]:
        arms: dict[datetime, dict[bool, Counts]] = {}
        for row in rows:
            arms.setdefault(row["block"], {})[row["is_canary"]] = Counts(row[name], row["n"])
        found[name] = [_block(arm) for _, arm in sorted(arms.items())]
    return found


async def _missed(db: Database, watched: Watched) -> list[Block]:
    """Of the tickets that ended badly, by mature labels, those that were let through."""
    if watched.workflow.label is None:
        return []
    now = datetime.now(UTC)
    mature = now - timedelta(days=watched.workflow.label.maturity_days)
    async with db.connection() as conn:
        rows = await conn.fetch(
            _OF_TICKETS,
            watched.workflow.name,
            watched.since,
            mature,
            [watched.canary, watched.production],
            watched.canary,
            int(Band.HIGH),
        )
    if not rows:
        return []
    ids = [row["ticket_id"] for row in rows]
    labels = await read_labels(db, watched.workflow, known_by=now, ticket_ids=ids)
    return list(_bad_ends(rows, labels))


def _bad_ends(rows: Iterable[Any], labels: Labels) -> Iterable[Block]:
    for row in rows:
        label = labels.of(row["ticket_id"], row["as_of"])
        if label is not None and label.value:
            yield _block({row["is_canary"]: Counts(int(row["is_missed"]), 1)})


def _block(arm: Mapping[bool, Counts]) -> Block:
    return Block(arm.get(True, NONE), arm.get(False, NONE))


# Up to where all live tickets are decided: a block that is counted does not change any more.
# Where production stood in, the canary failed, so that decision is the canary's.
_DECIDED = """
    WITH d AS (
        SELECT date_bin($5, d.as_of, $2) AS block,
               d.policy_hash = $4 OR d.errors LIKE $7 AS is_canary,
               d.errors <> '[]' AS is_error,
               d.model_status = 'failed' AS is_model_failure,
               d.decided_at - d.as_of > $6 AS is_slow,
               d.band >= 2 AS is_high
        FROM decisions d JOIN workflow_clocks c ON c.workflow = d.workflow
        WHERE d.workflow = $1 AND d.as_of > $2 AND d.ordinal = 1
          AND date_bin($5, d.as_of, $2) + $5::interval <= c.decided_through
          AND d.policy_hash = ANY ($3::text[]))
    SELECT block, is_canary, count(*) AS n,
           count(*) FILTER (WHERE is_error) AS errors,
           count(*) FILTER (WHERE is_model_failure) AS model_failures,
           count(*) FILTER (WHERE is_slow) AS slow,
           count(*) FILTER (WHERE is_high) AS more_high,
           count(*) FILTER (WHERE NOT is_high) AS less_high
    FROM d GROUP BY block, is_canary ORDER BY block
"""

_OF_TICKETS = """
    SELECT d.ticket_id, d.as_of, d.policy_hash = $5 AS is_canary,
           d.band < $6 AND d.route = 'auto' AS is_missed
    FROM decisions d
    WHERE d.workflow = $1 AND d.as_of > $2 AND d.as_of <= $3 AND d.ordinal = 1
      AND d.revision = 1 AND d.policy_hash = ANY ($4::text[])
    ORDER BY d.as_of, d.ticket_id
"""
