"""How good stored decisions turned out to be, by the outcomes that are known since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.workflow import Workflow
from tiebreak.errors import NotFound
from tiebreak.store import reading
from tiebreak.store.database import Database
from tiebreak.training.evaluate import Metrics, evaluate
from tiebreak.training.labels import read_labels


class NothingToAssess(NotFound):
    """No decision of this time has both a score and a mature label."""

    code = "nothing_to_assess"


@dataclass(frozen=True, slots=True)
class Assessment:
    """The model's figures and those of the rules' points alone, over the same decisions."""

    workflow: str
    since: datetime
    until: datetime
    model: Metrics
    rules_auc: float | None
    rules_pr_auc: float | None


async def assess(
    db: Database, workflow: Workflow, *, since: datetime, until: datetime, known_by: datetime
) -> Assessment:
    """Compare decisions with what was known by `known_by`. Raises `NothingToAssess`, `NoLabel`."""
    labels = await read_labels(db, workflow, known_by=known_by)
    scored: list[float] = []
    points: list[int] = []
    truth: list[bool] = []
    for row in await reading.scores(db, workflow.name, since=since, until=until):
        label = labels.of(row["ticket_id"], row["as_of"])
        if label is None:
            continue
        scored.append(row["score"])
        points.append(row["rules_points"])
        truth.append(label.value)
    if not truth:
        raise NothingToAssess(
            hint="Choose another time, or import outcomes.", workflow=workflow.name
        )
    y = np.array(truth, dtype=np.float32)
    by_rules = _evaluate(np.array(points, dtype=np.float64), y)
    return Assessment(
        workflow=workflow.name,
        since=since,
        until=until,
        model=_evaluate(np.array(scored, dtype=np.float64), y),
        rules_auc=by_rules["auc"],
        rules_pr_auc=by_rules["pr_auc"],
    )


def _evaluate(scores: NDArray[np.float64], y: NDArray[np.float32]) -> Metrics:
    return evaluate(scores, y, np.ones(len(y), dtype=np.float64))
