"""How good stored decisions turned out to be, by the outcomes that are known since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.policy import Policy
from tiebreak.core.workflow import Workflow
from tiebreak.decisions.beside import scored_beside
from tiebreak.errors import NotFound
from tiebreak.store import reading
from tiebreak.store.database import Database
from tiebreak.training.evaluate import Metrics, evaluate, verdict_order
from tiebreak.training.labels import read_labels
from tiebreak.training.resampling import Figure, Measure, Ranked, drawn

RESAMPLES = 1_000
SEED = 0
FIGURES = ("auc", "pr_auc", "brier")

Floats = NDArray[np.float64]


class NothingToAssess(NotFound):
    """No decision of this time has both a score and a mature label."""

    code = "nothing_to_assess"


@dataclass(frozen=True, slots=True)
class Assessment:
    """The model's figures and those of the rules alone, over the same decisions.

    `figures` holds FIGURES with the bounds of 95% of `resamples` of the tickets: of the `model`, of
    the `rules`, and the `difference` of the two on the same resamples. The rules rank by band, then
    points. They name no probabilities: their Brier score is the best that any reading of their
    verdicts could have had. `beside` tells of another policy's model on the same tickets:
    `figures`, the `difference` that production's model is more, and `microseconds_a_ticket`.
    """

    workflow: str
    since: datetime
    until: datetime
    model: Metrics
    figures: Mapping[str, Mapping[str, Figure]]
    beside: Mapping[str, Any] | None = None
    resamples: int = RESAMPLES
    seed: int = SEED


@dataclass(frozen=True, eq=False)
class Assessed:
    """Decisions with a mature label, in order of time: scores, rules' verdicts, truth (n,)."""

    rows: Sequence[Mapping[str, Any]]
    scores: Floats
    verdicts: Floats
    truth: Floats


async def assess(
    db: Database,
    workflow: Workflow,
    *,
    since: datetime,
    until: datetime,
    known_by: datetime,
    beside: Policy | None = None,
    entity_secret: bytes = b"",
) -> Assessment:
    """Compare decisions with what was known by `known_by`, and with the model of another policy.

    That one reads context by `entity_secret`. Raises `NothingToAssess`, `NoLabel`, `NoModelBeside`.
    """
    found = await read_assessed(db, workflow, since=since, until=until, known_by=known_by)
    told = None
    if beside is not None:
        other = await scored_beside(db, beside, found.rows, entity_secret)
        told = figures_beside(found, other.scores) | {
            "bundle_digest": beside.parts.bundle_digest,
            "microseconds_a_ticket": other.microseconds_a_ticket,
        }
    return Assessment(
        workflow=workflow.name,
        since=since,
        until=until,
        model=evaluate(found.scores, found.truth.astype(np.float32), np.ones(len(found.truth))),
        figures=figures_of(found),
        beside=told,
    )


async def read_assessed(
    db: Database, workflow: Workflow, *, since: datetime, until: datetime, known_by: datetime
) -> Assessed:
    """The decisions that can be assessed. Raises `NothingToAssess`, `NoLabel`."""
    labels = await read_labels(db, workflow, known_by=known_by)
    rows: list[Mapping[str, Any]] = []
    truth: list[bool] = []
    for row in await reading.scores(db, workflow.name, since=since, until=until):
        label = labels.of(row["ticket_id"], row["as_of"])
        if label is not None:
            rows.append(row)
            truth.append(label.value)
    if not truth:
        raise NothingToAssess(
            hint="Choose another time, or import outcomes.", workflow=workflow.name
        )
    bands, points = (
        np.array([row[name] for row in rows]) for name in ("rules_band", "rules_points")
    )
    return Assessed(
        rows=rows,
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
        verdicts=verdict_order(bands, points),
        truth=np.array(truth, dtype=np.float64),
    )


def figures_of(found: Assessed) -> dict[str, dict[str, Figure]]:
    """FIGURES of the model, of the rules, and their difference, with intervals."""
    ranked = Ranked.of(found.scores, found.truth)
    rules = Ranked.of(_rates(found.verdicts, found.truth), found.truth)
    by_verdict = Ranked.of(found.verdicts, found.truth, is_probability=False)
    measures: dict[str, Measure] = {
        "model.auc": ranked.auc,
        "model.pr_auc": ranked.pr_auc,
        "model.brier": ranked.brier,
        "rules.auc": by_verdict.auc,
        "rules.pr_auc": by_verdict.pr_auc,
        "rules.brier": rules.brier,
    }
    told = drawn(measures, np.ones(len(found.truth)), SEED, RESAMPLES)
    return {
        "model": {name: told[f"model.{name}"].figure() for name in FIGURES},
        "rules": {name: told[f"rules.{name}"].figure() for name in FIGURES},
        "difference": {
            name: told[f"model.{name}"].less(told[f"rules.{name}"]).figure() for name in FIGURES
        },
    }


def figures_beside(found: Assessed, scores: Floats) -> dict[str, Any]:
    """FIGURES of another model, and what the model in production is more, with intervals.

    Tickets without a score of the other one (NaN) are left out of both.
    """
    has = ~np.isnan(scores)
    truth = found.truth[has]
    measures: dict[str, Measure] = {}
    for name, of in (("model", found.scores), ("other", scores)):
        ranked = Ranked.of(of[has], truth)
        measures |= {
            f"{name}.auc": ranked.auc,
            f"{name}.pr_auc": ranked.pr_auc,
            f"{name}.brier": ranked.brier,
        }
    told = drawn(measures, np.ones(len(truth)), SEED, RESAMPLES)
    return {
        "tickets": len(truth),
        "figures": {name: told[f"other.{name}"].figure() for name in FIGURES},
        "difference": {
            name: told[f"model.{name}"].less(told[f"other.{name}"]).figure() for name in FIGURES
        },
    }


def _rates(verdicts: Floats, truth: Floats) -> Floats:
    """For each row the share of bad ends among the rows of its verdict (n,)."""
    _, place = np.unique(verdicts, return_inverse=True)
    return (np.bincount(place, weights=truth) / np.bincount(place))[place]
