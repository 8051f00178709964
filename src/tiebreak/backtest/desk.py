"""A worker's desk: what it opens in its process, and how it tallies a span into a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from tiebreak.backtest.comparing import Comparison
from tiebreak.backtest.plans import Plan, Request
from tiebreak.backtest.window import Span, read_span
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import write_whole
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.policy import Policy
from tiebreak.registry.policies import Recipe, assemble
from tiebreak.registry.proposals import ModelUnfit
from tiebreak.settings import Settings
from tiebreak.store.database import Database
from tiebreak.training.labels import read_labels

POOL_SIZE = 2


@dataclass(frozen=True)
class Desk:
    """What a worker process opens to tally spans."""

    settings: Settings
    keys: BundleKeys
    request: Request
    plan: Plan
    folder: Path

    @contextmanager
    def opened(self) -> Generator[Callable[[Span], int]]:
        """A function that tallies a span into its file and gives the number of tickets."""
        artifacts = ArtifactStore.of(self.settings)
        request = self.request
        comparison = Comparison(
            candidate=built(request.candidate, artifacts, self.keys),
            production=None
            if request.production is None
            else built(request.production, artifacts, self.keys),
            by=request.by,
        )
        address = self.settings.database.url
        assert address is not None
        with asyncio.Runner() as runner:
            db = runner.run(Database.open(address.get_secret_value(), POOL_SIZE))
            try:
                yield lambda span: runner.run(self._tally(db, comparison, span))
            finally:
                runner.run(db.close())

    async def _tally(self, db: Database, comparison: Comparison, span: Span) -> int:
        plan, workflow = self.plan, comparison.candidate.workflow
        stored = await read_span(db, workflow.name, span, plan.window, decided_by=plan.known_by)
        ids = [row["ticket_id"] for row in stored.tickets]
        labels = None
        if workflow.label is not None:
            labels = await read_labels(db, workflow, known_by=plan.known_by, ticket_ids=ids)
        context = None
        if plan.is_recomputed:
            rows = [row for row in stored.tickets if row["content"] is not None]
            context = _in_order(pl.read_ipc(context_file(self.folder, span)), rows)
        tally = comparison.tally(stored.tickets, stored.decisions, labels, context)
        write_whole(tally_file(self.folder, span), orjson.dumps(tally.as_data()))
        return len(stored.tickets)


def built(recipe: Recipe, artifacts: ArtifactStore, keys: BundleKeys) -> Policy:
    """The policy, whole. Raises `ModelUnfit` when its model does not load or does not fit."""
    loaded = assemble(recipe, artifacts, keys)
    if loaded.problem is not None:  # a verdict by rules alone would not be this policy's
        raise ModelUnfit(
            loaded.problem.message, hint=loaded.problem.hint, workflow=recipe.parts.workflow
        )
    return loaded.policy


def _in_order(context: pl.DataFrame, rows: Sequence[Any]) -> pl.DataFrame:
    """The context of these ticket rows, by their order."""
    keys = pl.DataFrame(
        [(row["ticket_id"], row["revision"]) for row in rows],
        schema={"ticket_id": pl.String, "revision": pl.Int64},
        orient="row",
    )
    joined = keys.join(context, on=keys.columns, how="left", maintain_order="left")
    return joined.drop("ticket_id", "revision", "as_of")


def tally_file(folder: Path, span: Span) -> Path:
    """Where the tally of a span stands once it is finished."""
    return folder / f"span-{span.number:06}.json"


def context_file(folder: Path, span: Span) -> Path:
    """Where the recomputed context of a span stands."""
    return folder / f"context-{span.number:06}.arrow"
