"""Gates over labels and scores: ranking, recall, calibration, slices, leakage, shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.release_plan import (
    CalibrationLimits,
    LeakageLimits,
    MarginLimits,
    ShiftLimits,
    SliceLimits,
)
from tiebreak.release.gate_results import Gathered, Result, Verdict
from tiebreak.release.gate_statistics import (
    Estimate,
    auc_difference,
    auc_with_confidence,
    calibration_error,
    stability_index,
)
from tiebreak.release.gates_shadow import OUTCOMES_FIRST
from tiebreak.training.evaluate import Bin

MORE_LABELS = "Wait for more mature labels, or let the shadow score from an earlier moment on."
LEAST_OF_EITHER = 10  # labels, below which no AUC is judged
LEAST_SAMPLE = 50  # tickets, below which no share is judged


def pr_auc(gathered: Gathered, limits: MarginLimits) -> Result:
    """The area under the precision-recall curve beside production's."""
    if gathered.compared is None:
        return _unlabelled("pr_auc", gathered, limits)
    mine, others = gathered.compared.pr_auc
    return _beside("pr_auc", "PR-AUC", mine, others, gathered.compared.pr_auc_difference, limits)


def recall(gathered: Gathered, limits: MarginLimits) -> Result:
    """The share of bad ends among what reviewers can look at, beside production's."""
    if gathered.compared is None:
        return _unlabelled("recall", gathered, limits)
    mine, others = gathered.compared.recall
    told = gathered.compared.recall_difference
    return _beside("recall", "Recall at capacity", mine, others, told, limits)


def auc(gathered: Gathered, limits: MarginLimits) -> Result:
    """The area under the ROC curve beside production's."""
    if gathered.compared is None:
        return _unlabelled("auc", gathered, limits)
    mine, others = (scores[gathered.usable] for scores in gathered.ranking)
    areas, told = auc_difference(mine, others, gathered.scored.truth[gathered.usable] == 1)
    return _beside("auc", "AUC", *areas, told, limits)


def calibration(gathered: Gathered, limits: CalibrationLimits) -> Result:
    """How far scores lie from rates, more than chance explains.

    No gate keeps a model in production whose scores lie clearly further from them.
    """
    if gathered.candidate.parts.bundle_digest is None:
        return _rules_alone("calibration", limits.error)
    if gathered.compared is None:
        return _no_labels("calibration", gathered, limits.error)
    scores = gathered.scored["score"][gathered.usable]
    truth = gathered.scored.truth[gathered.usable] == 1
    found = calibration_error(scores, truth, seed=gathered.seed)
    others = _calibration_of_production(gathered, truth)
    is_mending = others is not None and found.value + limits.error < others
    verdict = Verdict.PASS
    if found.value > limits.error and not is_mending:
        verdict = Verdict.FAIL if found.value > found.chance else Verdict.NO_EVIDENCE
    return Result(
        "calibration",
        verdict,
        found.value,
        limits.error,
        f"Scores lie {found.value:.3f} from what became of the tickets (at most "
        f"{limits.error:g}; chance alone makes {found.chance:.3f}"
        + ("" if others is None else f"; production's lie {others:.3f}")
        + ").",
        {Verdict.PASS: "", Verdict.FAIL: "Train anew on newer tickets."}.get(verdict, MORE_LABELS),
        {"chance": found.chance, "production": others},
    )


def _calibration_of_production(gathered: Gathered, truth: NDArray[np.bool_]) -> float | None:
    """How far production's scores lie from the same rates; None where it has no model."""
    production = gathered.production
    if production is None or production.parts.bundle_digest is None:
        return None
    scores = gathered.scored["score_before"][gathered.usable]
    return calibration_error(scores, truth, seed=gathered.seed).value


def slices(gathered: Gathered, limits: SliceLimits) -> Result:
    """The largest fall of AUC within a slice that chance does not explain."""
    if not gathered.slices:
        sentence = "The workflow names no slices."
        return Result("slices", Verdict.PASS, None, limits.margin, sentence)
    if gathered.label_problem:
        return _no_labels("slices", gathered, -limits.margin)
    truth = gathered.scored.truth == 1
    judged: dict[str, tuple[float, float, Estimate]] = {}
    told = {
        f"{field}={value}": places[gathered.usable[places]]
        for field, values in gathered.slices.items()
        for value, places in values.items()
    }
    least = max(limits.positives, 2)
    enough = {
        name: places
        for name, places in told.items()
        if len(places) >= limits.labels
        and min(truth[places].sum(), (~truth[places]).sum()) >= least
    }
    for name, places in enough.items():
        mine, others = (scores[places] for scores in gathered.ranking)
        confidence = 1 - 0.05 / len(enough)  # Bonferroni: so many are looked at
        areas, fall = auc_difference(mine, others, truth[places], confidence=confidence)
        judged[name] = (*areas, fall)
    if not judged:
        sentence = f"No slice has {limits.labels} labels with {limits.positives} of either end."
        return Result("slices", Verdict.NO_EVIDENCE, None, limits.margin, sentence, MORE_LABELS)
    worst = min(judged, key=lambda name: judged[name][2].value)
    fallen = [n for n, (*_, f) in judged.items() if f.value < -limits.margin and f.high < 0]
    difference = judged[worst][2].value
    return Result(
        "slices",
        Verdict.FAIL if fallen else Verdict.PASS,
        difference,
        -limits.margin,
        f"Of {len(judged)} slices AUC changes most in {worst}, by {difference:+.3f} (at least "
        f"{-limits.margin:g}, or within chance)"
        + (f"; fallen: {', '.join(fallen)}." if fallen else "."),
        "Look at what changed for these tickets." if fallen else "",
        {"slices": {name: [one, other] for name, (one, other, _) in judged.items()}},
    )


def leakage(gathered: Gathered, limits: LeakageLimits) -> Result:
    """What the model was trained on but live tickets lack, and how far its AUC falls on them."""
    model, missing = gathered.candidate.model, gathered.missing
    if gathered.candidate.parts.bundle_digest is None:
        return _rules_alone("leakage", limits.missing)
    if model is None or missing is None or missing.live_count < LEAST_SAMPLE:
        sentence = "Too few live tickets are scored to see what they lack."
        hint = "Leave it in shadow until live tickets are scored: imported ones do not show it."
        return Result("leakage", Verdict.NO_EVIDENCE, None, limits.missing, sentence, hint)
    rises = {name: missing.live[name] - missing.imported.get(name, 1.0) for name in missing.live}
    worst = max(rises, key=lambda name: rises[name], default="")
    rise = rises.get(worst, 0.0) if missing.imported_count >= LEAST_SAMPLE else 0.0
    told = (
        f"The share without {worst} is {rise:+.0%} on live tickets (at most +{limits.missing:.0%})"
    )
    validated = _metrics(model.manifest).get("auc")
    live = _live_auc(gathered)
    has_fallen = False
    if live is not None and validated is not None:
        has_fallen = live.high < validated - limits.drop
        told += f"; AUC is {live.value:.3f} on live tickets, {validated:.3f} on validation ones"
    has_leaked = rise > limits.missing or has_fallen
    return Result(
        "leakage",
        Verdict.FAIL if has_leaked else Verdict.PASS,
        rise,
        limits.missing,
        f"{told}.",
        "Train without features that are filled in after the fact, or only in imports."
        if has_leaked
        else "",
        {
            "missing": {name: [missing.live[name], missing.imported.get(name)] for name in rises},
            "live_auc": None if live is None else live.value,
            "validation_auc": validated,
        },
    )


def shift(gathered: Gathered, limits: ShiftLimits) -> Result:
    """How far the candidate's scores lie from those it gave to its validation tickets (PSI)."""
    model, scored = gathered.candidate.model, gathered.scored
    if gathered.candidate.parts.bundle_digest is None:
        return _rules_alone("shift", limits.psi)
    bins: Sequence[Bin] = () if model is None else _metrics(model.manifest).get("calibration", ())
    scores = scored["score"][~np.isnan(scored["score"])]
    if not bins or len(scores) < LEAST_SAMPLE:
        sentence = "Too few scores, of validation or of shadow, to compare."
        return Result("shift", Verdict.NO_EVIDENCE, None, limits.psi, sentence, MORE_LABELS)
    # Tenths that end at the same score are one bin.
    highest = np.array([each["highest"] for each in bins])
    edges = np.unique(highest[:-1])
    expected = np.zeros(len(edges) + 1)
    np.add.at(expected, np.searchsorted(edges, highest), [each["rows"] for each in bins])
    found = np.bincount(np.searchsorted(edges, scores), minlength=len(edges) + 1)
    index = stability_index(expected, found.astype(np.float64))
    is_stable = index <= limits.psi
    return Result(
        "shift",
        Verdict.PASS if is_stable else Verdict.FAIL,
        index,
        limits.psi,
        f"The distribution of its scores moved by a PSI of {index:.3f} from the validation tickets "
        f"(at most {limits.psi:g}).",
        "" if is_stable else "See which features changed since it was trained; train anew.",
    )


def _metrics(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    return manifest.get("metrics", {})


def _live_auc(gathered: Gathered) -> Estimate | None:
    chosen = gathered.usable & (gathered.scored["is_live"] == 1)
    truth = gathered.scored.truth[chosen] == 1
    if min(truth.sum(), (~truth).sum()) < LEAST_OF_EITHER:
        return None
    return auc_with_confidence(gathered.scored["score"][chosen], truth)


def _beside(
    gate: str, name: str, mine: float, others: float, told: Estimate, limits: MarginLimits
) -> Result:
    verdict, hint = Verdict.PASS, ""
    if told.value < -limits.margin:
        verdict, hint = Verdict.FAIL, "It ranks worse than production: look at its training."
    elif told.low < -limits.margin:
        verdict, hint = Verdict.NO_EVIDENCE, MORE_LABELS
    return Result(
        gate,
        verdict,
        told.value,
        -limits.margin,
        f"{name} is {mine:.3f}, production's {others:.3f}: {told.value:+.3f}, with 95% confidence "
        f"above {told.low:+.3f} (at least {-limits.margin:g}).",
        hint,
        {"candidate": mine, "production": others, "low": told.low, "high": told.high},
    )


def _unlabelled(gate: str, gathered: Gathered, limits: MarginLimits) -> Result:
    return _no_labels(gate, gathered, -limits.margin)


def _no_labels(gate: str, gathered: Gathered, limit: float) -> Result:
    problem = gathered.label_problem
    sentence = problem or "Too few scored tickets have a mature label."
    hint = OUTCOMES_FIRST if problem else MORE_LABELS
    return Result(gate, Verdict.NO_EVIDENCE, None, limit, sentence, hint)


def _rules_alone(gate: str, limit: float) -> Result:
    sentence = "The candidate has no model."
    return Result(gate, Verdict.PASS, None, limit, sentence)
