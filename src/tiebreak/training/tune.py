"""Searches each family's parameters: seeded, judged by cross-validation in time, pruned.

Families take turns, so that each gets the same number of trials, the first of them with the
parameters as given. A budget of time only ends the search between trials: repeated by the number
of trials it made, it finds the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tiebreak.training.dataset import Snapshot
from tiebreak.training.evaluate import average_precision
from tiebreak.training.fit import DEEPEST, Family, Parameters, Progress, fit
from tiebreak.training.prepare import Prepared, TooLittleData, folds, prepare

if TYPE_CHECKING:
    import optuna  # slow to import, and only needed to search

FOLDS = 3
_STARTUP_TRIALS = 4  # of a family before any is pruned

Space = Mapping[str, tuple[float, float, bool]]  # name: least, most, whether by factors
_BOTH: Space = {
    "learning_rate": (0.02, 0.3, True),
    "min_child_weight": (1.0, 50.0, True),
    "l2": (0.1, 30.0, True),
}
_TREES: Space = {**_BOTH, "feature_share": (0.4, 1.0, False)}
SPACES: Mapping[Family, Space] = {
    "xgboost": {**_TREES, "row_share": (0.5, 1.0, False)},
    "lightgbm": {**_TREES, "row_share": (0.5, 1.0, False)},
    "hist_gradient_boosting": _TREES,
    "ebm": _BOTH,
}


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best parameters found for a family, and their mean PR-AUC over the folds."""

    parameters: Parameters
    cross_validated: float
    trials: int
    pruned: int


def tune(
    snapshot: Snapshot, families: Sequence[Family], parameters: Parameters, progress: Progress
) -> dict[Family, Tuned]:
    """The best parameters of each family; TooLittleData where a fold cannot be judged."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    prepared = [prepare(split) for split in folds(snapshot, parameters, FOLDS)]
    for fold in prepared:
        if fold.validation.y.min() == fold.validation.y.max():
            raise TooLittleData(hint="Import more outcomes, or train without tuning.", part="fold")
    searches: dict[Family, _Search] = {
        family: _Search(family, parameters, prepared) for family in families
    }
    began, made, best = time.monotonic(), 0, 0.0
    while not _is_over(parameters, made, len(families), time.monotonic() - began):
        search = searches[families[made % len(families)]]
        best = max(best, search.try_one())
        made += 1
        share = _share(parameters, made, time.monotonic() - began)
        progress(f"tune: {made} trials, best PR-AUC {best:.3f}", min(share, 1.0))
    return {family: search.best() for family, search in searches.items()}


def _is_over(parameters: Parameters, made: int, families: int, seconds: float) -> bool:
    if made < families:
        return False  # each family has its parameters as given tried
    if parameters.trials:
        return made >= max(parameters.trials, families)
    return parameters.tune_seconds is None or seconds >= parameters.tune_seconds


def _share(parameters: Parameters, made: int, seconds: float) -> float:
    if parameters.trials:
        return made / parameters.trials
    return seconds / max(parameters.tune_seconds or 0.0, 1e-9)


class _Search:
    """The search of one family."""

    def __init__(
        self, family: Family, parameters: Parameters, prepared: Sequence[Prepared]
    ) -> None:
        import optuna

        self._family: Family = family
        self._given = parameters
        self._prepared = prepared
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=parameters.seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS),
        )
        given = asdict(parameters)
        self._study.enqueue_trial({name: given[name] for name in ("max_depth", *SPACES[family])})
        self._tried: dict[int, Parameters] = {}

    def try_one(self) -> float:
        """The mean PR-AUC over the folds of one more trial, over those reached if it is pruned."""
        from optuna.trial import TrialState

        trial = self._study.ask()
        chosen = self._tried[trial.number] = self._chosen(trial)
        reached: list[float] = []
        for number, fold in enumerate(self._prepared):
            booster = fit(self._family, fold.training, fold.tuning, chosen, _in_silence)
            margins = booster.margins(fold.validation.x).astype(np.float64)
            truth = fold.validation.y.astype(np.float64)
            reached.append(average_precision(margins, truth, fold.validation.weights))
            trial.report(float(np.mean(reached)), number)
            if number < len(self._prepared) - 1 and trial.should_prune():
                self._study.tell(trial, state=TrialState.PRUNED)
                return 0.0
        mean = float(np.mean(reached))
        self._study.tell(trial, mean)
        return mean

    def best(self) -> Tuned:
        """The best of the trials that went through all folds, the first of equals."""
        trials = self._study.get_trials(deepcopy=False)
        whole = [trial for trial in trials if trial.state.name == "COMPLETE"]
        best = max(whole, key=lambda trial: (trial.value or 0.0, -trial.number))
        return Tuned(
            parameters=self._tried[best.number],
            cross_validated=float(best.value or 0.0),
            trials=len(trials),
            pruned=len(trials) - len(whole),
        )

    def _chosen(self, trial: optuna.Trial) -> Parameters:
        values: dict[str, Any] = {"max_depth": trial.suggest_int("max_depth", 3, DEEPEST)}
        for name, (least, most, is_log) in SPACES[self._family].items():
            values[name] = float(f"{trial.suggest_float(name, least, most, log=is_log):.4g}")
        return replace(self._given, **values)


def _in_silence(_step: str, _share: float) -> None:
    """The progress of one trial's fits is not told."""
