"""Scoring: a candidate decides stretches of stored tickets, each kept with how far it came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from tiebreak.core.arbitrate import Route
from tiebreak.core.bands import Band
from tiebreak.core.decide import Decisions, decide
from tiebreak.core.features import FeaturePlan
from tiebreak.core.policy import Policy
from tiebreak.core.stored import Columns, StoredTicket, columns
from tiebreak.core.tickets import Schema, ticket_schema
from tiebreak.decisions.soundness import flaw
from tiebreak.errors import TiebreakError, Unavailable
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.release.shadow import Assignment
from tiebreak.settings import Keyring
from tiebreak.store import contexts, kept, shadows
from tiebreak.store.database import Database
from tiebreak.store.keyed import shadow_hash, share_end

BATCH = 256


class CandidateFailed(Unavailable):
    """The candidate is not fit to go on."""

    code = "candidate_failed"

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message, cause=cause)
        self.cause = cause


@dataclass(frozen=True)
class Scorer:
    """A candidate, and how it scores."""

    db: Database
    keyring: Keyring
    assignment: Assignment
    policy: Policy
    stored: frozenset[str]  # context columns that every ticket to be scored was given
    batch_seconds: float
    fingerprint: str

    async def step(self) -> int | None:
        """Score the next stretch; how many tickets it held, None when there was nothing to do.

        Raises `CandidateFailed` for what the candidate did wrong.
        """
        subject = self.assignment.subject
        done = await shadows.progress(self.db, subject.release_id)
        if done is None:
            return None
        found = await shadows.stretch(self.db, subject.workflow, done.through, BATCH)
        if found.through == found.after:
            return None
        rows = await self._rows([row for row in found.tickets if self._is_mine(row)])
        await shadows.keep(
            self.db, subject.release_id, subject.workflow, subject.policy_hash, found, rows
        )
        return len(rows)

    def _is_mine(self, row: dict[str, Any]) -> bool:
        if row["content"] is None:  # erased
            return False
        share = self.assignment.share
        key = self.keyring.sampling_key
        return share == 1 or (
            shadow_hash(key, row["workflow"], row["ticket_id"]) < share_end(share)
        )

    async def _rows(self, stored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        if not stored:
            return []
        schema = ticket_schema(self.policy.workflow)
        tickets = [StoredTicket.from_row(row, schema) for row in stored]
        given = await self._given(tickets, schema)
        begun = time.monotonic()
        decisions = _decided(given, self.policy)
        seconds = time.monotonic() - begun
        if seconds > self.batch_seconds:
            raise CandidateFailed(
                "too_slow", f"{len(stored)} tickets took {seconds:.1f} s, more than the limit."
            )
        found = flaw(decisions, len(stored))
        if found is not None:
            raise CandidateFailed(found, "What it says are no decisions.")
        return _score_rows(tickets, decisions, seconds, self.fingerprint)

    async def _given(self, tickets: Sequence[StoredTicket], schema: Schema) -> Columns:
        """The tickets as the candidate takes them; what admission did not read, from the log."""
        plan = self.policy.features_plan.history
        fields, context = columns(tickets, schema, plan.context_columns)
        lacking = [name for name in plan.context_columns if name not in self.stored]
        if not lacking:
            return fields, context
        async with self.db.connection() as conn, conn.transaction():
            log = await kept.kept(conn, self.policy.workflow.name, plan)
            whole = await contexts.complete(conn, log, fields, context, self.keyring.entity_key)
        return fields, context.with_columns(whole.select(lacking))


async def stored_columns(
    db: Database, library: PolicyLibrary, workflow: str, after: datetime
) -> frozenset[str]:
    """The context columns that every ticket admitted after this moment was given."""
    async with db.connection() as conn:
        rows = await conn.fetch(_IN_PRODUCTION, workflow, after)
    found: list[frozenset[str]] = []
    for row in rows:
        recipe = await library.recipe(await library.parts(row["policy_hash"]))
        found.append(frozenset(FeaturePlan(recipe.workflow).history.context_columns))
    return frozenset[str]().union(*found[:1]).intersection(*found)


def _decided(given: Columns, policy: Policy) -> Decisions:
    try:
        return decide(*given, policy)
    except MemoryError as error:
        raise CandidateFailed("out_of_memory", "It took more memory than it may.") from error
    except TiebreakError as error:
        raise CandidateFailed("failed", f"Deciding failed: {error.code}.") from error
    except (Exception, pl.exceptions.PanicException) as error:
        # Its name alone: messages of libraries may quote values.
        raise CandidateFailed("failed", f"Deciding failed: {type(error).__name__}.") from error


def _score_rows(
    tickets: Sequence[StoredTicket], decisions: Decisions, seconds: float, fingerprint: str
) -> list[dict[str, Any]]:
    """The rows of `ml_shadow_scores`, in the order of the tickets."""
    verdict, rules, model = decisions.arbitration, decisions.rules, decisions.model
    nothing = [None] * len(tickets)
    varying: dict[str, list[Any]] = {
        "band": verdict.band.tolist(),
        "route": [Route(route).label for route in verdict.route.tolist()],
        "is_tie": verdict.is_tie.tolist(),
        "rules_band": rules.band.tolist(),
        "hard_floor": [None if floor == Band.LOW else floor for floor in rules.hard_floor.tolist()],
        "margin": nothing if model is None else model.margin.tolist(),
        "score": nothing if model is None else model.score.tolist(),
        "model_band": nothing if model is None else model.band.tolist(),
    }
    same = {
        "policy_hash": decisions.policy.hash,
        "scored_at": datetime.now(UTC),
        "seconds": seconds / len(tickets),
        "fingerprint": fingerprint,
    }
    return [
        {
            "as_of": ticket.as_of,
            "workflow": ticket.workflow,
            "ticket_id": ticket.ticket_id,
            "revision": ticket.revision,
            **same,
            **dict(zip(varying, values, strict=True)),
        }
        for ticket, values in zip(tickets, zip(*varying.values(), strict=True), strict=True)
    ]


# Those that were in production at the moment or since.
_IN_PRODUCTION = """
    SELECT DISTINCT policy_hash FROM (
        SELECT policy_hash, lead(created_at) OVER (ORDER BY seq) AS ended
        FROM release_records WHERE workflow = $1) AS r
    WHERE ended IS NULL OR ended + interval '1 minute' > $2
"""
