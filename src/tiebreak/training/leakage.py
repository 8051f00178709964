"""Leaks: features that know the label, or that training sees other than serving does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.features import FeaturePlan
from tiebreak.core.suggestions import did_you_mean
from tiebreak.errors import InvalidInput
from tiebreak.training.dataset import IS_DECIDED, Snapshot
from tiebreak.training.evaluate import roc_auc

MOST_AUC = 0.95  # of a single feature against the label
MOST_UNLIKE = 0.01  # of decided tickets whose feature was another when served
MOST_DISTANCE = 0.8  # between what was imported last and what was decided first: 0 same, 1 apart
LEAST_ROWS = 200  # on either side of a comparison
_MOST_ROWS = 2_000  # on either side of the distance, so that it is about one time
_STRETCHES = 10  # of imported tickets, between which features move anyway
_UNUSUAL = 0.15  # beyond that distance
_BINS = 32
_PRIOR_WEIGHT = 20.0
_TOLD = 5  # features whose figures a manifest tells

Kind = Literal["knows_label", "differs_from_serving", "jumps_at_serving"]
_WHY: Mapping[Kind, str] = {
    "knows_label": "alone it ranks the labels with an AUC of {:.3f}",
    "differs_from_serving": "in {:.1%} of decided tickets it was another when they were decided",
    "jumps_at_serving": "its values are {:.0%} apart from where tickets were decided on",
}


class LeakageFound(InvalidInput):
    """Features leak: the model would look better than it will be."""

    code = "leakage_found"


class WaiverUnfit(InvalidInput):
    """A waiver is for a feature of the workflow, and says why."""

    code = "waiver_unfit"


@dataclass(frozen=True, slots=True)
class Leak:
    """A feature that leaks, how, and by how much."""

    feature: str
    kind: Kind
    figure: float

    @property
    def said(self) -> str:
        """The leak in words."""
        return f"{self.feature}: {_WHY[self.kind].format(self.figure)}"


def check_leakage(
    whole: Snapshot,
    training: Snapshot,
    text_scores: Mapping[str, NDArray[np.float64]],
    waived: Mapping[str, str],
) -> dict[str, Any]:
    """What a manifest says of leaks; LeakageFound where one is not waived, WaiverUnfit.

    `whole` are all rows and `training` those that train, in order of time; `text_scores` (n,)
    are for each text feature the scores by which the training rows train.
    """
    _check_waivers(whole, waived)
    ranked = single_aucs(training, text_scores)
    leaks = [
        *(Leak(name, "knows_label", auc) for name, auc in ranked.items() if auc > MOST_AUC),
        *_unlike_serving(whole),
        *_jumps(whole),
    ]
    open_leaks = [leak for leak in leaks if leak.feature not in waived]
    if open_leaks:
        raise LeakageFound(
            f"{len(open_leaks)} leaks: {'; '.join(leak.said for leak in open_leaks)}.",
            hint="Mend or remove the features; where one is right as it is, say so with "
            "`--waive-leakage FEATURE --reason WHY`.",
            leaks=[asdict(leak) for leak in open_leaks],
        )
    strongest = sorted(ranked.items(), key=lambda item: (-item[1], item[0]))[:_TOLD]
    return {
        "limits": {"auc": MOST_AUC, "unlike": MOST_UNLIKE, "distance": MOST_DISTANCE},
        "strongest": dict(strongest),
        "compared_with_serving": 0 if whole.origin is None else whole.origin.compared,
        "waived": [
            {**asdict(leak), "said": leak.said, "reason": waived[leak.feature]} for leak in leaks
        ],
    }


def single_aucs(
    training: Snapshot, text_scores: Mapping[str, NDArray[np.float64]]
) -> dict[str, float]:
    """How well each feature alone ranks the labels of the later half of the rows.

    A feature's score is the rate of positives in the earlier half, by value or by part of its
    range, missing included; a text's is what was learnt of its words without the row.
    """
    truth = training.targets.astype(np.float64)
    half = training.frame.height // 2
    later = truth[half:]
    if half < LEAST_ROWS or later.min() == later.max():
        return {}
    ones = np.ones(len(later))
    found: dict[str, float] = {}
    for name, kind in FeaturePlan(training.workflow).kinds().items():
        if kind == "text":
            scores = text_scores[name]
            is_scored = ~np.isnan(scores)
            told = truth[is_scored]
            if len(told) >= LEAST_ROWS and told.min() != told.max():
                found[name] = roc_auc(scores[is_scored], told, np.ones(len(told)))
            continue
        codes = _codes(training.frame[name], half)
        weight = np.bincount(codes[:half], minlength=codes.max() + 1)
        positives = np.bincount(codes[:half], truth[:half], minlength=codes.max() + 1)
        rates = (positives + _PRIOR_WEIGHT * truth[:half].mean()) / (weight + _PRIOR_WEIGHT)
        found[name] = roc_auc(rates[codes[half:]], later, ones)
    return found


def _check_waivers(whole: Snapshot, waived: Mapping[str, str]) -> None:
    names = [feature.name for feature in whole.workflow.features]
    for name, reason in waived.items():
        if name not in names:
            raise WaiverUnfit(f"There is no feature {name!r}.", hint=did_you_mean(name, names))
        if not reason.strip():
            raise WaiverUnfit(hint="Say why with `--reason`.", feature=name)


def _unlike_serving(whole: Snapshot) -> Iterator[Leak]:
    origin = whole.origin
    if origin is None or not origin.compared:
        return
    for name, count in origin.unlike_serving.items():
        if count / origin.compared > MOST_UNLIKE:
            yield Leak(name, "differs_from_serving", count / origin.compared)


def _jumps(whole: Snapshot) -> Iterator[Leak]:
    """Features whose values are others from where tickets were decided, not just imported.

    What moves as far between other stretches of the imported tickets, such as the month, moves
    anyway.
    """
    if IS_DECIDED not in whole.frame.columns:
        return
    is_decided = whole.frame[IS_DECIDED].to_numpy()
    imported, decided = np.flatnonzero(~is_decided), np.flatnonzero(is_decided)
    if min(len(imported), len(decided)) < LEAST_ROWS:
        return
    size = max(LEAST_ROWS, min(_MOST_ROWS, len(imported) // _STRETCHES))
    count = min(len(imported) // size, _STRETCHES)
    before = np.split(imported[-count * size :], count)
    rows = np.concatenate([*before, decided[:size]])
    for name, kind in FeaturePlan(whole.workflow).kinds().items():
        column = whole.frame[name][rows]
        if kind == "text":
            column = column.is_null()
        codes = _codes(column, len(column))
        shares = [
            np.bincount(part, minlength=codes.max() + 1) / len(part)
            for part in np.split(codes, range(size, count * size + 1, size))
        ]
        distances = [
            float(np.abs(one - next_).sum() / 2) for one, next_ in itertools.pairwise(shares)
        ]
        usual = max(distances[:-1], default=0.0)
        if distances[-1] > max(MOST_DISTANCE, usual + _UNUSUAL):
            yield Leak(name, "jumps_at_serving", distances[-1])


def _codes(column: pl.Series, known: int) -> NDArray[np.int64]:
    """Each row's value, or the part of the range it lies in, as a number; missing is 0.

    The parts have equal numbers of the first `known` rows.
    """
    if column.dtype == pl.String:
        ranks = column.rank("dense").fill_null(0)
        return ranks.to_numpy().astype(np.int64)
    values = column.cast(pl.Float64).fill_null(np.nan).to_numpy()
    is_given = ~np.isnan(values)
    given = values[:known][is_given[:known]]
    edges = np.unique(np.quantile(given, np.linspace(0, 1, _BINS + 1))) if len(given) else given
    return np.where(is_given, np.searchsorted(edges, values, side="left") + 1, 0)
