"""A family's model as trained and as exported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tiebreak.core import model as parts_of
from tiebreak.core.calibration import Calibrator
from tiebreak.core.matrix import FeatureSpec
from tiebreak.core.model import Model
from tiebreak.errors import InvalidInput
from tiebreak.training.calibrate import calibrate
from tiebreak.training.evaluate import Metrics, evaluate
from tiebreak.training.export import to_onnx
from tiebreak.training.fit import Booster, Family, Rows
from tiebreak.training.tables import build_tables
from tiebreak.training.trees import Forest


class NothingLearnt(InvalidInput):
    """No feature tells the labels apart: the trees have no split."""

    code = "nothing_learnt"


@dataclass(frozen=True, eq=False)
class Fitted:
    """A family's model as trained and as exported, and how good it is on the validation rows."""

    family: Family
    booster: Booster
    forest: Forest
    parts: dict[str, bytes]
    model: Model
    metrics: Metrics


def calibrated(booster: Booster, tuning: Rows) -> Calibrator:
    """The calibration table of a booster."""
    return calibrate(booster.margins(tuning.x).astype(np.float32), tuning.y, tuning.weights)


def exported(
    family: Family,
    booster: Booster,
    calibrator: Calibrator,
    specs: tuple[FeatureSpec, ...],
    validation: Rows,
) -> Fitted:
    """The parts of a bundle, the model that they make, and its figures; NothingLearnt."""
    forest = booster.forest()
    if not any((tree.left >= 0).any() for tree in forest.trees):
        raise NothingLearnt(hint="Define features that vary, or import more tickets.")
    parts = {
        parts_of.ONNX: to_onnx(forest),
        booster.part: booster.dump(),
        parts_of.TABLES: build_tables(forest).dump(),
        parts_of.CALIBRATOR: calibrator.dump(),
        **{parts_of.text_part(s.name): s.text.dump() for s in specs if s.text is not None},
    }
    features = {"features": [spec.listed() for spec in specs]}
    model = Model.load({**parts, parts_of.MANIFEST: as_json(features)}, digest="")
    scores = model.scores(model.margins(validation.x))
    metrics = evaluate(scores, validation.y, validation.weights)
    return Fitted(family, booster, forest, parts, model, metrics)


def as_json(value: dict[str, Any]) -> bytes:
    """Plain data as it stands in a bundle."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
