"""Training, from a snapshot to the parts of a bundle."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tiebreak.core import model as parts_of
from tiebreak.core.matrix import FeatureSpec
from tiebreak.training import groups
from tiebreak.training.compare import compare
from tiebreak.training.dataset import Snapshot
from tiebreak.training.evaluate import Metrics
from tiebreak.training.fit import FAMILIES, Family, Parameters, Progress, fit
from tiebreak.training.fitted import Fitted, as_json, calibrated, exported
from tiebreak.training.leakage import check_leakage
from tiebreak.training.parity import prove_parity
from tiebreak.training.prepare import Split, check_comparable, prepare, split_by_time
from tiebreak.training.tune import SPACES, Tuned, tune

_LIBRARIES = ("numpy", "numba", "onnx", "onnxruntime", "polars", "scikit-learn", "scipy")


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained model: the parts of its bundle, and what is said about it."""

    parts: dict[str, bytes]
    manifest: dict[str, Any]
    metrics: Metrics
    report: dict[str, Any] | None = None  # where one was asked for


def train(
    snapshot: Snapshot, parameters: Parameters, progress: Progress, *, fingerprint: str
) -> TrainingResult:
    """A model trained on the snapshot, exported and proved equal to what was trained.

    The family `best` trains one model of each of FAMILIES and takes the one with the larger area
    under the precision-recall curve, the first of equals: of the validation rows, or of the
    cross-validation where parameters are tuned. The same snapshot, parameters and fingerprint
    give the same bytes. `progress` is called with the step's name and the share of it that is
    done. Raises TooLittleData, LeakageFound, WaiverUnfit, NothingLearnt, ExplanationTooLarge,
    ExportRefused, OpenmpMissing and EbmMissing.
    """
    split = split_by_time(snapshot, parameters)
    if parameters.is_compared:
        check_comparable(split)
    progress("texts", 0.0)
    prepared = prepare(split)
    progress("leakage", 0.0)
    text_scores = {name: text.out_of_fold for name, text in prepared.texts.items()}
    leakage = check_leakage(snapshot, split.training, text_scores, parameters.waived)
    families = FAMILIES if parameters.family == "best" else (parameters.family,)
    tuned = tune(snapshot, families, parameters, progress) if parameters.is_tuned else {}
    chosen = {f: tuned[f].parameters if f in tuned else parameters for f in families}
    boosters = [
        fit(
            family,
            prepared.training,
            prepared.tuning,
            chosen[family],
            _nth(progress, place, len(families)),
        )
        for place, family in enumerate(families)
    ]
    progress("calibrate", 0.0)
    calibrators = [calibrated(booster, prepared.tuning) for booster in boosters]
    progress("export", 0.0)
    fitted = [
        exported(*pair, prepared.specs, prepared.validation)
        for pair in zip(families, boosters, calibrators, strict=True)
    ]
    best = max(fitted, key=lambda one: _rank(one, tuned))
    progress("prove", 0.0)
    parity = prove_parity(
        best.model, best.booster, best.forest, prepared.validation.x, parameters.seed
    )
    manifest = _manifest(split, prepared.specs, parameters, best, fitted, tuned, fingerprint)
    manifest |= {"parity": parity, "leakage": leakage}
    if snapshot.workflow.slices:
        scores = best.model.scores(best.model.margins(prepared.validation.x))
        weights = prepared.validation.weights
        manifest["slices"] = groups.figures(split.validation, scores, weights)
    report = None
    if parameters.is_compared:
        report = compare(split, prepared, parameters, fitted, best, tuned, progress)
    progress("done", 1.0)
    return TrainingResult(
        {**best.parts, parts_of.MANIFEST: as_json(manifest)}, manifest, best.metrics, report
    )


def _rank(fitted: Fitted, tuned: Mapping[Family, Tuned]) -> float:
    if fitted.family in tuned:
        return tuned[fitted.family].cross_validated
    return fitted.metrics["pr_auc"] or 0.0


def _nth(progress: Progress, place: int, count: int) -> Progress:
    """Progress of one of several equal parts of a step."""
    return lambda step, share: progress(step, (place + share) / count)


def _manifest(
    split: Split,
    specs: tuple[FeatureSpec, ...],
    parameters: Parameters,
    best: Fitted,
    fitted: list[Fitted],
    tuned: Mapping[Family, Tuned],
    fingerprint: str,
) -> dict[str, Any]:
    workflow = split.training.workflow
    searching = ("optuna",) if tuned else ()
    libraries = (*_LIBRARIES, *searching, *(one.booster.library for one in fitted))
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
        "parameters": parameters.listed() | {"trials": sum(t.trials for t in tuned.values())},
        "seed": parameters.seed,
        "family": best.family,
        "families": {one.family: _figures(one, tuned.get(one.family)) for one in fitted},
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


def _figures(fitted: Fitted, tuned: Tuned | None) -> dict[str, Any]:
    """What a family is judged by."""
    kept = ("pr_auc", "auc", "log_loss")
    told = {"trees": len(fitted.forest.trees), **{name: fitted.metrics[name] for name in kept}}
    if tuned is None:
        return told
    names = ("max_depth", *SPACES[fitted.family])
    return told | {
        "cross_validated_pr_auc": tuned.cross_validated,
        "trials": tuned.trials,
        "pruned": tuned.pruned,
        "parameters": {name: getattr(tuned.parameters, name) for name in names},
    }
