"""Groups of tickets by the fields that a workflow names as slices, where they can tell anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.training.dataset import SLICE, Snapshot
from tiebreak.training.evaluate import evaluate

MOST, LEAST_ROWS, LEAST_POSITIVES = 12, 100, 10
_KEPT = ("rows", "positives", "base_rate", "mean_score", "auc", "pr_auc", "brier")


@dataclass(frozen=True, eq=False)
class Group:
    """The tickets (n,) of a part that have this value in this field, and how many ended badly."""

    field: str
    value: str
    mask: NDArray[np.bool_]
    rows: int
    positives: int


def groups(part: Snapshot) -> dict[str, list[Group]]:
    """Of each slice its largest groups, those with enough tickets of either end."""
    return {field: _groups(part, field) for field in part.workflow.slices}


def figures(
    part: Snapshot, scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    """How good scores (n,) of a part's tickets are in each group, by `field = value`."""
    found: dict[str, dict[str, Any]] = {}
    for field, of_field in groups(part).items():
        for group in of_field:
            told = evaluate(scores[group.mask], part.targets[group.mask], weights[group.mask])
            found[f"{field} = {group.value}"] = {name: told[name] for name in _KEPT}
    return found


def _groups(part: Snapshot, field: str) -> list[Group]:
    values = part.frame[f"{SLICE}{field}"].cast(pl.String).fill_null("(none)").alias("value")
    counts = values.value_counts(sort=True).sort(["count", "value"], descending=[True, False])
    label = part.label.to_numpy()
    found: list[Group] = []
    for value in counts["value"].to_list()[:MOST]:
        mask = (values == value).to_numpy()
        rows, positives = int(mask.sum()), int((mask & label).sum())
        if rows >= LEAST_ROWS and min(positives, rows - positives) >= LEAST_POSITIVES:
            found.append(Group(field, value, mask, rows, positives))
    return found
