"""A training snapshot: features as they were served, labels, and what they are as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.features import FeaturePlan
from tiebreak.core.matrix import FeatureColumnMissing, FeatureSpec
from tiebreak.core.text import TextScore
from tiebreak.core.workflow import Workflow
from tiebreak.errors import InvalidInput

# what a snapshot knows of its tickets besides features; no feature's name has a dot
TICKET_ID, REVISION, IS_DECIDED = "ticket.id", "ticket.revision", "ticket.is_decided"
RULES_POINTS, RULES_BAND = "rules.points", "rules.band"
SLICE = "slice."
SMALLEST_CATEGORY = 20  # rarer values are trained as unseen, so that unseen has a meaning
_PRIOR_WEIGHT = 20.0  # pulls a category's rate towards the base rate


class SnapshotUnfit(InvalidInput):
    """The columns of a training snapshot do not fit together."""

    code = "snapshot_unfit"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a snapshot was read by, so that it can be read again.

    `unlike_serving` counts, among `compared` rows, those whose feature differs from what was
    served; `left_out` counts labelled tickets that are not in the snapshot, by reason.
    """

    known_by: datetime
    rules_version: str
    compared: int
    unlike_serving: Mapping[str, int]
    left_out: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Labelled tickets to train on, one row each.

    `frame` holds every feature of the workflow by name, computed from the stored context, and
    what else is known of a ticket under names with a dot;
    `label` (Boolean, no nulls) and `as_of` (Datetime us UTC) have a value for each of its rows,
    `weights` (Float64, positive) and `known_at` (Datetime us UTC, when the label became known)
    too, where given. `data_hash` names the data that the snapshot
    was taken of. Raises SnapshotUnfit.
    """

    workflow: Workflow
    frame: pl.DataFrame
    label: pl.Series
    as_of: pl.Series
    data_hash: str
    weights: pl.Series | None = None
    known_at: pl.Series | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        given = [column for column in (self.weights, self.known_at) if column is not None]
        columns = [self.label, self.as_of, *given]
        if any(len(column) != self.frame.height for column in columns):
            raise SnapshotUnfit(hint="Label, as_of, weights and known_at need one value a row.")
        if any(column.null_count() for column in columns):
            raise SnapshotUnfit(hint="Drop rows without label, as_of, weight or known_at.")
        absent = [f.name for f in self.workflow.features if f.name not in self.frame.columns]
        if absent:
            raise FeatureColumnMissing(features=absent)
        if not self.workflow.features:
            raise SnapshotUnfit(hint="Define at least one feature in the workflow.")

    def select(self, rows: NDArray[np.bool_]) -> Snapshot:
        """The snapshot of these rows alone."""
        mask = pl.Series(rows)
        weights, known_at = (
            None if column is None else column.filter(mask)
            for column in (self.weights, self.known_at)
        )
        return replace(
            self,
            frame=self.frame.filter(mask),
            label=self.label.filter(mask),
            as_of=self.as_of.filter(mask),
            weights=weights,
            known_at=known_at,
        )

    @property
    def targets(self) -> NDArray[np.float32]:
        """The labels as 0 and 1 (n,)."""
        return self.label.cast(pl.Float32).to_numpy()

    @property
    def row_weights(self) -> NDArray[np.float64]:
        """The weights (n,), 1 where none are given."""
        if self.weights is None:
            return np.ones(self.frame.height, dtype=np.float64)
        return self.weights.cast(pl.Float64).to_numpy()


def feature_specs(training: Snapshot, texts: Mapping[str, TextScore]) -> tuple[FeatureSpec, ...]:
    """The model's features; codes of categories are fixed by the training rows alone.

    `texts` holds what was learnt of each text feature.

    Known are the values of at least SMALLEST_CATEGORY rows, in order of their smoothed rate of
    positives, so that a split on the code parts low rates from high ones.
    """
    plan = FeaturePlan(training.workflow)
    kinds, definitions = plan.kinds(), plan.definitions()
    return tuple(
        FeatureSpec(
            name=name,
            kind=kinds[name],
            definition=definitions[name],
            categories=_ordered_values(training, name) if kinds[name] == "category" else (),
            text=texts.get(name),
        )
        for name in plan.names
    )


def _ordered_values(training: Snapshot, name: str) -> tuple[str, ...]:
    base_rate = float(training.targets.mean())
    rate = (pl.col("positives") + _PRIOR_WEIGHT * base_rate) / (pl.col("rows") + _PRIOR_WEIGHT)
    return tuple(
        pl.DataFrame({"value": training.frame[name].cast(pl.String), "label": training.label})
        .drop_nulls("value")
        .group_by("value")
        .agg(rows=pl.len(), positives=pl.col("label").sum())
        .filter(pl.col("rows") >= SMALLEST_CATEGORY)
        .sort(rate, "value")["value"]
        .to_list()
    )
