"""Drafts: the policy that shall be proposed, and the backtest that is evidence of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.backtest.orders import Orders
from tiebreak.backtest.plans import Request
from tiebreak.backtest.run import Progress, Runner
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import PolicyParts
from tiebreak.registry import records
from tiebreak.registry.candidates import Changes, candidate
from tiebreak.registry.policies import Recipe, UnknownVersion
from tiebreak.registry.proposals import Change, changed
from tiebreak.release.releases import Office, parts_of
from tiebreak.store.kept import HistoryNotReady, kept, not_ready
from tiebreak.workflows import versions
from tiebreak.workflows.versions import UnknownWorkflow


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy that may be proposed, and the one in production."""

    recipe: Recipe
    production: Recipe | None

    @property
    def parts(self) -> PolicyParts:
        """What the policy is made of."""
        return self.recipe.parts

    @property
    def changes(self) -> Sequence[Change]:
        """What it changes."""
        return changed(None if self.production is None else self.production.parts, self.parts)

    @property
    def production_hash(self) -> str | None:
        """The policy in production."""
        return None if self.production is None else self.production.parts.hash


async def draft(office: Office, artifacts: ArtifactStore, workflow: str, changes: Changes) -> Draft:
    """The policy in production with these changes. Raises what `candidate` raises."""
    now = await _production(office, workflow)
    parts = None if now is None else now.parts
    found = await candidate(office.db, office.library, artifacts, workflow, parts, changes)
    return Draft(found, now)


async def draft_of(office: Office, parts: PolicyParts) -> Draft:
    """A policy whose versions are stored. Raises `UnknownVersion`."""
    recipe = await office.library.recipe(parts)
    return Draft(recipe, await _production(office, parts.workflow))


async def draft_of_backtest(office: Office, orders: Orders, backtest: Backtest) -> Draft:
    """The policy that was backtested; its versions are stored, or stand in what was asked for.

    Raises `UnknownVersion`.
    """
    parts = parts_of(backtest)
    try:
        return await draft_of(office, parts)
    except UnknownVersion:
        recipe = await asyncio.to_thread(orders.recipe, parts.hash)
        if recipe is None:
            raise
    return Draft(recipe, await _production(office, parts.workflow))


def evidence_of(evidence: Evidence, draft: Draft) -> Backtest | None:
    """The newest backtest of exactly this policy against the one in production."""
    for made in evidence.list():
        found = made.evidence
        is_same = found["policy_hash"] == draft.parts.hash
        if is_same and found["baseline"]["production"] == draft.production_hash:
            return made
    return None


async def check_history(office: Office, draft: Draft) -> None:
    """Raises `HistoryNotReady` when the log lacks totals that the draft reads, `EntityChanged`."""
    workflow = draft.recipe.workflow
    try:
        async with office.db.connection() as conn:
            await kept(conn, workflow.name, HistoryPlan(workflow))
    except HistoryNotReady:
        try:
            stored = await versions.addressed(office.db, workflow.name, workflow.version)
        except UnknownWorkflow:
            raise HistoryNotReady(
                hint="Store the version with `tiebreak workflow load PATH --reason WHY`, then run "
                f"`tiebreak history rebuild {workflow.name}`, then do this again.",
                workflow=workflow.name,
            ) from None
        raise not_ready(workflow.name, stored.version.ordinal) from None


async def backtested(
    runner: Runner, draft: Draft, *, jobs: int, minutes_a_review: float, progress: Progress
) -> Backtest:
    """Backtest the draft on all of history. Raises what `Runner.run` raises."""
    request = Request(
        workflow=draft.parts.workflow,
        candidate=draft.recipe,
        production=draft.production,
        since=None,
        until=None,
        by=draft.recipe.workflow.slices,
    )
    return await runner.run(
        request, jobs=jobs, minutes_a_review=minutes_a_review, progress=progress
    )


async def _production(office: Office, workflow: str) -> Recipe | None:
    now = (await records.current(office.db, office.keyring)).get(workflow)
    if isinstance(now, records.ForgedRelease):
        raise now
    if now is None:
        return None
    return await office.library.recipe(await office.library.parts(now.policy_hash))
