"""From a snapshot cut in time to the rows that boosters fit, stop and are judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.matrix import FeatureSpec, feature_matrix
from tiebreak.errors import InvalidInput
from tiebreak.training.dataset import Snapshot, feature_specs
from tiebreak.training.fit import Parameters, Rows
from tiebreak.training.texts import LearntText, learn_texts

LEAST_ROWS = 200
LEAST_POSITIVES = 10


class TooLittleData(InvalidInput):
    """There is too little data to train on."""

    code = "too_little_data"


@dataclass(frozen=True, eq=False)
class Split:
    """A snapshot cut in time: rows that train, rows that stop and calibrate, rows that judge."""

    training: Snapshot
    tuning: Snapshot
    validation: Snapshot


@dataclass(frozen=True, eq=False)
class Prepared:
    """The parts of a split as the model sees them, by features fixed on the training part."""

    specs: tuple[FeatureSpec, ...]
    texts: Mapping[str, LearntText]
    training: Rows
    tuning: Rows
    validation: Rows


def prepare(split: Split) -> Prepared:
    """The features of a split; texts of training rows get scores learnt without them."""
    texts = learn_texts(split.training)
    specs = feature_specs(split.training, {name: text.score for name, text in texts.items()})
    training, tuning, validation = (
        Rows(feature_matrix(specs, part.frame), part.targets, part.row_weights)
        for part in (split.training, split.tuning, split.validation)
    )
    for place, spec in enumerate(specs):
        if spec.kind == "text":
            training.x[:, place] = texts[spec.name].out_of_fold
    return Prepared(specs, texts, training, tuning, validation)


def split_by_time(snapshot: Snapshot, parameters: Parameters) -> Split:
    """The snapshot's rows by `as_of`; TooLittleData where a part cannot do its work.

    Rows before `valid_from` whose label was not yet known then are in no part: a model trained
    at that moment could not have learnt from them. Neither are rows before `tune_from`, where it
    is given, whose label was not known by it.
    """
    is_validation = (snapshot.as_of >= parameters.valid_from).to_numpy()
    before = ~is_validation
    if parameters.train_from is not None:
        before &= (snapshot.as_of >= parameters.train_from).to_numpy()
    if snapshot.known_at is not None:
        before &= (snapshot.known_at <= parameters.valid_from).to_numpy()
    if not before.any():
        raise TooLittleData(
            hint="Choose a later valid_from, or an earlier train_from: no row is left to train on."
        )
    is_training, is_tuning = _taught_and_tuned(snapshot, before, parameters)
    split = Split(
        training=snapshot.select(is_training),
        tuning=snapshot.select(is_tuning),
        validation=snapshot.select(is_validation),
    )
    _check(split.training, "training", LEAST_ROWS, LEAST_POSITIVES)
    _check(split.tuning, "tuning", LEAST_ROWS // 4, 1)
    if not split.validation.frame.height:
        raise TooLittleData(hint="Choose an earlier valid_from: no row lies after it.")
    return split


def _taught_and_tuned(
    snapshot: Snapshot, before: NDArray[np.bool_], parameters: Parameters
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the rows `before` validation train, and which stop and calibrate."""
    since = parameters.tune_from
    if since is None:
        moments = snapshot.as_of.to_physical().to_numpy()
        border = np.quantile(moments[before], 1.0 - parameters.tune_share, method="lower")
        is_tuning = before & (moments >= border)
        return before & ~is_tuning, is_tuning
    is_tuning = before & (snapshot.as_of >= since).to_numpy()
    is_training = before & ~is_tuning
    if snapshot.known_at is not None:
        is_training &= (snapshot.known_at <= since).to_numpy()
    return is_training, is_tuning


def folds(snapshot: Snapshot, parameters: Parameters, count: int) -> list[Split]:
    """Splits of the rows before `valid_from` for cross-validation, each reaching further in time.

    The later half of the rows is cut into `count` parts of equal size. Each is judged by what
    could be trained when it began: earlier rows whose labels were known by then, the last
    `tune_share` of which stop it, because `tune_from` lies after most of them. TooLittleData.
    """
    is_earlier = (snapshot.as_of < parameters.valid_from).to_numpy()
    if parameters.train_from is not None:
        is_earlier &= (snapshot.as_of >= parameters.train_from).to_numpy()
    earlier = snapshot.select(is_earlier)
    moments = earlier.as_of.sort()
    places = np.linspace(0.5, 1.0, count + 1) * len(moments)
    cuts: list[datetime] = [moments[int(place)] for place in places[:-1]]
    return [
        split_by_time(
            earlier.select((earlier.as_of < until).to_numpy()),
            replace(parameters, valid_from=since, tune_from=None),
        )
        for since, until in zip(cuts, [*cuts[1:], parameters.valid_from], strict=True)
    ]


def check_comparable(split: Split) -> None:
    """TooLittleData where nothing can be ranked, because all validation rows end alike."""
    _check(split.validation, "validation", 2, 1)


def _check(part: Snapshot, name: str, least_rows: int, least_positives: int) -> None:
    rows, positives = part.frame.height, int(part.label.sum())
    if rows < least_rows:
        raise TooLittleData(
            f"The {name} part has {rows} rows; at least {least_rows} are needed.",
            hint="Import more labelled tickets, or move valid_from or tune_from.",
            part=name,
            rows=rows,
            positives=positives,
        )
    if min(positives, rows - positives) < least_positives:
        raise TooLittleData(
            f"The {name} part has {positives} positive labels in {rows} rows; at least "
            f"{least_positives} of either class are needed.",
            hint="Import more outcomes, check the label's expression, or move valid_from or "
            "tune_from.",
            part=name,
            rows=rows,
            positives=positives,
        )
