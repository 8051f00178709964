"""Compares families, yardsticks and the rules on the validation rows, as plain data for a report.

Times stand in the report and never in a bundle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.calibration import Calibrator
from tiebreak.training import ebm_booster
from tiebreak.training.calibrate import calibrate
from tiebreak.training.dataset import RULES_BAND, RULES_POINTS, Snapshot
from tiebreak.training.evaluate import verdict_order
from tiebreak.training.fit import FAMILIES, Family, Parameters, Progress, fit
from tiebreak.training.fitted import Fitted, calibrated, exported
from tiebreak.training.groups import groups
from tiebreak.training.linear import LinearYardstick
from tiebreak.training.prepare import Prepared, Split
from tiebreak.training.resampling import RESAMPLES, Measure, Ranked, drawn, resampled
from tiebreak.training.tune import Tuned
from tiebreak.training.verdict import verdict

FORMAT = 1
RULES, LINEAR, ENSEMBLE = "rules", "linear", "ensemble"
USUAL_SHARE = 0.1  # of tickets that people review, where nothing is said
_NO_EBM = "the extra `ebm` is not installed"
_CALLS = 200
_BATCH = 64
_CURVE_POINTS = 60

Floats = NDArray[np.float64]
Kind = Literal["served", "yardstick", "rules"]


@dataclass(frozen=True, eq=False)
class Contender:
    """Whoever is compared: scores (n,) of the validation rows, and what it costs."""

    name: str
    kind: Kind
    ranked: Ranked
    costs: Mapping[str, float | None]


def compare(
    split: Split,
    prepared: Prepared,
    parameters: Parameters,
    fitted: Sequence[Fitted],
    best: Fitted,
    tuned: Mapping[Family, Tuned],
    progress: Progress,
) -> dict[str, Any]:
    """The report's data; `best` is what was bundled. Families not trained yet are trained."""
    progress("compare", 0.0)
    truth = prepared.validation.y.astype(np.float64)
    weights = prepared.validation.weights
    contenders = _contenders(split, prepared, parameters, fitted, truth)
    days = _days(split.validation)
    share = USUAL_SHARE
    if parameters.reviews_a_day is not None:
        share = min(1.0, parameters.reviews_a_day * days / len(truth))
    progress("compare", 0.5)
    told = [_told(one, weights, share, parameters.seed) for one in contenders]
    told.sort(key=lambda one: -one["figures"]["pr_auc"]["value"])
    chosen = next(one for one in contenders if one.name == best.family)
    against = _differences(chosen, contenders, weights, parameters.seed)
    slices = _slices(split.validation, chosen, weights, share, parameters.seed)
    as_of = split.validation.as_of
    data = {
        "format": FORMAT,
        "workflow": split.validation.workflow.name,
        "workflow_version": split.validation.workflow.version,
        "snapshot": split.validation.data_hash,
        "bundled": best.family,
        "validation": {
            "rows": len(truth),
            "positives": int(truth.sum()),
            "base_rate": float(np.average(truth, weights=weights)),
            "since": str(as_of.min()),
            "until": str(as_of.max()),
            "days": days,
        },
        "capacity": {"share": share, "reviews_a_day": share * len(truth) / days},
        "resamples": RESAMPLES,
        "tuning": {
            f: {"trials": t.trials, "pruned": t.pruned, "pr_auc": t.cross_validated}
            for f, t in tuned.items()
        },
        "left_out": {} if ebm_booster.is_installed() else {"ebm": _NO_EBM},
        "contenders": told,
        "against": against,
        "slices": slices,
        "leakage_waived": dict(parameters.waived),
    }
    return data | {"verdict": verdict(data)}


def _contenders(
    split: Split,
    prepared: Prepared,
    parameters: Parameters,
    fitted: Sequence[Fitted],
    truth: Floats,
) -> list[Contender]:
    """All that can be compared here: each family, the linear yardstick, an ensemble, the rules."""
    by_family: dict[Family, Fitted] = {one.family: one for one in fitted}
    wanted: tuple[Family, ...] = (*FAMILIES, "ebm") if ebm_booster.is_installed() else FAMILIES
    for family in wanted:
        if family not in by_family:
            booster = fit(family, prepared.training, prepared.tuning, parameters, _in_silence)
            calibrator = calibrated(booster, prepared.tuning)
            by_family[family] = exported(
                family, booster, calibrator, prepared.specs, prepared.validation
            )
    x = prepared.validation.x
    margins = {family: one.model.margins(x) for family, one in by_family.items()}
    found = [
        Contender(
            family, "served", Ranked.of(one.model.scores(margins[family]), truth), _costs(one, x)
        )
        for family, one in by_family.items()
    ]
    linear = LinearYardstick.fit(prepared.specs, prepared.training, parameters)
    found.append(_yardstick(LINEAR, linear.margins, prepared, truth))
    found.append(_yardstick(ENSEMBLE, lambda rows: _mean_margins(by_family, rows), prepared, truth))
    frame = split.validation.frame
    if RULES_POINTS in frame.columns:
        order = verdict_order(frame[RULES_BAND].to_numpy(), frame[RULES_POINTS].to_numpy())
        ranked = Ranked.of(order, truth, is_probability=False)
        found.append(Contender(RULES, "rules", ranked, {}))
    return found


def _mean_margins(by_family: Mapping[Family, Fitted], x: NDArray[np.float32]) -> Floats:
    margins = np.stack([one.model.margins(x) for one in by_family.values()])
    return np.asarray(margins.mean(axis=0, dtype=np.float64))


def _yardstick(
    name: str, margins: Callable[[NDArray[np.float32]], Floats], prepared: Prepared, truth: Floats
) -> Contender:
    tuning = prepared.tuning
    calibrator: Calibrator = calibrate(
        margins(tuning.x).astype(np.float32), tuning.y, tuning.weights
    )
    scores = calibrator.scores(margins(prepared.validation.x).astype(np.float32))
    return Contender(name, "yardstick", Ranked.of(scores, truth), {})


def _costs(one: Fitted, x: NDArray[np.float32]) -> dict[str, float | None]:
    """What serving it takes: times on this machine, as it is now, and bytes."""
    model, batch = one.model, x[:_BATCH]
    model.warm()
    served = (name for name in one.parts if name != one.booster.part)
    return {
        "score_one_us": _median_us(lambda n: model.scores(model.margins(x[n : n + 1])), len(x)),
        "score_batch_us_a_row": _median_us(lambda _: model.scores(model.margins(batch)), 1)
        / len(batch),
        "explain_batch_us_a_row": _median_us(lambda _: model.contributions(batch), 1) / len(batch),
        "bytes": float(sum(len(one.parts[name]) for name in served)),
        "trees": float(len(one.forest.trees)),
    }


def _median_us(call: Callable[[int], object], rows: int) -> float:
    taken: list[float] = []
    for number in range(_CALLS):
        began = time.perf_counter()
        call(number % rows)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken)) * 1e6


def _told(one: Contender, weights: Floats, share: float, seed: int) -> dict[str, Any]:
    ranked = one.ranked
    measures: dict[str, Measure] = {
        "pr_auc": ranked.pr_auc,
        "auc": ranked.auc,
        "recall": lambda sample: ranked.recall(sample, share),
    }
    if ranked.is_probability:
        measures["calibration_error"] = ranked.calibration_error
        measures["score_less_rate"] = ranked.score_less_rate
    return {
        "name": one.name,
        "kind": one.kind,
        "figures": resampled(measures, weights, seed),
        "costs": one.costs,
        "calibration": _calibration(ranked, weights) if ranked.is_probability else [],
        "recall_curve": [
            [at, ranked.recall(weights, at)] for at in np.linspace(0, 1, _CURVE_POINTS + 1).tolist()
        ],
    }


def _calibration(ranked: Ranked, weights: Floats) -> list[list[float]]:
    """Mean score and rate of each tenth of the rows, the highest scores first."""
    return [
        [
            float(np.average(ranked.scores[part], weights=weights[part])),
            float(np.average(ranked.truth[part], weights=weights[part])),
        ]
        for part in np.array_split(ranked.order, 10)
        if len(part)
    ]


def _differences(
    chosen: Contender, contenders: Sequence[Contender], weights: Floats, seed: int
) -> dict[str, Any]:
    """By how much the chosen one's PR-AUC is more than each other's, on the same resamples."""
    found = drawn({one.name: one.ranked.pr_auc for one in contenders}, weights, seed)
    return {
        name: found[chosen.name].less(each).figure()
        for name, each in found.items()
        if name != chosen.name
    }


def _slices(
    validation: Snapshot, chosen: Contender, weights: Floats, share: float, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """The chosen one's figures by the values of each slice that have enough tickets.

    `recall` is among the tickets that would be reviewed of all: what people miss in this group.
    """
    ranked, found = chosen.ranked, dict[str, list[dict[str, Any]]]()
    reviewed = np.zeros(len(weights))
    reviewed[ranked.order[: round(share * len(weights))]] = 1.0
    for field, of_field in groups(validation).items():
        found[field] = []
        for group in of_field:
            told = {"value": group.value, "rows": group.rows, "positives": group.positives}
            measures = _slice_measures(ranked, group.mask.astype(np.float64), reviewed)
            found[field].append(told | {"figures": resampled(measures, weights, seed)})
    return found


def _slice_measures(ranked: Ranked, mask: Floats, reviewed: Floats) -> dict[str, Measure]:
    truth, gap = mask * ranked.truth, mask * (ranked.scores - ranked.truth)
    passed = mask * (1.0 - ranked.truth)

    def share(part: Floats) -> Measure:
        return lambda weights: float((weights * part * reviewed).sum() / (weights * part).sum())

    return {
        "auc": lambda weights: ranked.auc(weights * mask),
        "recall": share(truth),
        "needless": share(passed),
        "score_less_rate": lambda weights: float((weights * gap).sum() / (weights * mask).sum()),
    }


def _days(validation: Snapshot) -> float:
    span = validation.as_of.to_physical()
    first, last = span.min(), span.max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    return max((last - first) / 86_400e6, 1.0)


def _in_silence(_step: str, _share: float) -> None:
    """The progress of families trained for comparison alone is not told."""
