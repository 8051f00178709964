"""Training, from a snapshot to the parts of a bundle."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson

from tiebreak.core import model as parts_of
from tiebreak.core.calibration import Calibrator
from tiebreak.core.matrix import FeatureSpec, feature_matrix
from tiebreak.core.model import Model
from tiebreak.errors import InvalidInput
from tiebreak.training.calibrate import calibrate
from tiebreak.training.dataset import Snapshot, feature_specs
from tiebreak.training.evaluate import Metrics, evaluate
from tiebreak.training.export import to_onnx
from tiebreak.training.fit import FAMILIES, Booster, Family, Parameters, Progress, Rows, fit
from tiebreak.training.parity import prove_parity
from tiebreak.training.tables import build_tables
from tiebreak.training.texts import learn_texts
from tiebreak.training.trees import Forest

LEAST_ROWS = 200
LEAST_POSITIVES = 10
_LIBRARIES = ("numpy", "numba", "onnx", "onnxruntime", "polars", "scikit-learn", "scipy")


class TooLittleData(InvalidInput):
    """There is too little data to train on."""

    code = "too_little_data"


class NothingLearnt(InvalidInput):
    """No feature tells the labels apart: the trees have no split."""

    code = "nothing_learnt"


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained model: the parts of its bundle, and what is said about it."""

    parts: dict[str, bytes]
    manifest: dict[str, Any]
    metrics: Metrics


@dataclass(frozen=True, eq=False)
class Split:
    """A snapshot cut in time: rows that train, rows that stop and calibrate, rows that judge."""

    training: Snapshot
    tuning: Snapshot
    validation: Snapshot


@dataclass(frozen=True, eq=False)
class Fitted:
    """A family's model as trained and as exported, and how good it is on the validation rows."""

    family: Family
    booster: Booster
    forest: Forest
    parts: dict[str, bytes]
    model: Model
    metrics: Metrics


def train(
    snapshot: Snapshot, parameters: Parameters, progress: Progress, *, fingerprint: str
) -> TrainingResult:
    """A model trained on the snapshot, exported and proved equal to what was trained.

    The family `best` trains one model of each and takes the one with the larger area under the
    precision-recall curve of the validation rows, the first of equals. The same snapshot,
    parameters and fingerprint give the same bytes. `progress` is called with the step's name and
    the share of it that is done. Raises TooLittleData, NothingLearnt, ExplanationTooLarge,
    ExportRefused and OpenmpMissing.
    """
    split = split_by_time(snapshot, parameters)
    progress("texts", 0.0)
    texts = learn_texts(split.training)
    specs = feature_specs(split.training, {name: text.score for name, text in texts.items()})
    training, tuning, validation = (
        _rows(part, specs) for part in (split.training, split.tuning, split.validation)
    )
    for place, spec in enumerate(specs):
        if spec.kind == "text":
            training.x[:, place] = texts[spec.name].out_of_fold
    families = FAMILIES if parameters.family == "best" else (parameters.family,)
    boosters = [
        fit(family, training, tuning, parameters, _nth(progress, place, len(families)))
        for place, family in enumerate(families)
    ]
    progress("calibrate", 0.0)
    calibrators = [_calibrated(booster, tuning) for booster in boosters]
    progress("export", 0.0)
    fitted = [
        _exported(*pair, specs, validation)
        for pair in zip(families, boosters, calibrators, strict=True)
    ]
    best = max(fitted, key=lambda one: one.metrics["pr_auc"] or 0.0)
    progress("prove", 0.0)
    parity = prove_parity(best.model, best.booster, best.forest, validation.x, parameters.seed)
    manifest = _manifest(split, specs, parameters, best, fitted, fingerprint) | {"parity": parity}
    progress("done", 1.0)
    return TrainingResult(
        {**best.parts, parts_of.MANIFEST: _json(manifest)}, manifest, best.metrics
    )


def _nth(progress: Progress, place: int, count: int) -> Progress:
    """Progress of one of several equal parts of a step."""
    return lambda step, share: progress(step, (place + share) / count)


def _calibrated(booster: Booster, tuning: Rows) -> Calibrator:
    return calibrate(booster.margins(tuning.x).astype(np.float32), tuning.y, tuning.weights)


def _exported(
    family: Family,
    booster: Booster,
    calibrator: Calibrator,
    specs: tuple[FeatureSpec, ...],
    validation: Rows,
) -> Fitted:
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
    model = Model.load({**parts, parts_of.MANIFEST: _json(features)}, digest="")
    scores = model.scores(model.margins(validation.x))
    metrics = evaluate(scores, validation.y, validation.weights)
    return Fitted(family, booster, forest, parts, model, metrics)


def split_by_time(snapshot: Snapshot, parameters: Parameters) -> Split:
    """The snapshot's rows by `as_of`; TooLittleData where a part cannot do its work.

    Rows before `valid_from` whose label was not yet known then are in no part: a model trained
    at that moment could not have learnt from them.
    """
    moments = snapshot.as_of.to_physical().to_numpy()
    is_validation = (snapshot.as_of >= parameters.valid_from).to_numpy()
    before = ~is_validation
    if snapshot.known_at is not None:
        before &= (snapshot.known_at <= parameters.valid_from).to_numpy()
    if not before.any():
        raise TooLittleData(hint="Choose a later valid_from: no row lies before it.")
    border = np.quantile(moments[before], 1.0 - parameters.tune_share, method="lower")
    is_tuning = before & (moments >= border)
    split = Split(
        training=snapshot.select(before & ~is_tuning),
        tuning=snapshot.select(is_tuning),
        validation=snapshot.select(is_validation),
    )
    _check(split.training, "training", LEAST_ROWS, LEAST_POSITIVES)
    _check(split.tuning, "tuning", LEAST_ROWS // 4, 1)
    if not split.validation.frame.height:
        raise TooLittleData(hint="Choose an earlier valid_from: no row lies after it.")
    return split


def _check(part: Snapshot, name: str, least_rows: int, least_positives: int) -> None:
    rows, positives = part.frame.height, int(part.label.sum())
    if rows < least_rows:
        raise TooLittleData(
            f"The {name} part has {rows} rows; at least {least_rows} are needed.",
            hint="Import more labelled tickets, or move valid_from.",
            part=name,
            rows=rows,
            positives=positives,
        )
    if min(positives, rows - positives) < least_positives:
        raise TooLittleData(
            f"The {name} part has {positives} positive labels in {rows} rows; at least "
            f"{least_positives} of either class are needed.",
            hint="Import more outcomes, check the label's expression, or move valid_from.",
            part=name,
            rows=rows,
            positives=positives,
        )


def _rows(part: Snapshot, specs: tuple[FeatureSpec, ...]) -> Rows:
    return Rows(feature_matrix(specs, part.frame), part.targets, part.row_weights)


def _manifest(
    split: Split,
    specs: tuple[FeatureSpec, ...],
    parameters: Parameters,
    best: Fitted,
    fitted: list[Fitted],
    fingerprint: str,
) -> dict[str, Any]:
    workflow = split.training.workflow
    libraries = (*_LIBRARIES, *(one.booster.library for one in fitted))
    return {
        "workflow": workflow.name,
        "workflow_version": workflow.version,
        "label": workflow.label.model_dump(mode="json") if workflow.label else None,
        "schema": [{"name": f.name, "type": f.type.value} for f in workflow.fields],
        "features": [spec.listed() for spec in specs],
        "data_hash": split.training.data_hash,
        "rows": {
            "training": split.training.frame.height,
            "tuning": split.tuning.frame.height,
            "validation": split.validation.frame.height,
        },
        "parameters": asdict(parameters),
        "seed": parameters.seed,
        "family": best.family,
        "families": {one.family: _figures(one) for one in fitted},
        "trees": len(best.forest.trees),
        "base_value": best.model.base_value,
        "metrics": best.metrics,
        "versions": {
            "tiebreak": version("tiebreak"),
            "python": platform.python_version(),
            **{name: version(name) for name in libraries},
        },
        "fingerprint": fingerprint,
    }


def _figures(fitted: Fitted) -> dict[str, Any]:
    """What a family is judged by."""
    kept = ("pr_auc", "auc", "log_loss")
    return {"trees": len(fitted.forest.trees), **{name: fitted.metrics[name] for name in kept}}


def _json(manifest: dict[str, Any]) -> bytes:
    return orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
