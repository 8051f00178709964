"""Tuning: the same search again by its number of trials, judged only by what was known."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.sample_models import VALID_FROM, parameters, snapshot

from tiebreak.bundles.format import pack
from tiebreak.training.prepare import TooLittleData, folds
from tiebreak.training.train import TrainingResult, train
from tiebreak.training.tune import tune


def _train(trials: int = 0, seconds: float | None = None, seed: int = 7) -> TrainingResult:
    chosen = replace(
        parameters(rounds=10, seed=seed, family="best"), trials=trials, tune_seconds=seconds
    )
    return train(snapshot(1_500), chosen, lambda *_: None, fingerprint="here")


@pytest.mark.full
def test_a_search_with_a_budget_of_time_is_repeated_by_its_trials() -> None:
    timed = _train(seconds=1.0)
    trials = timed.manifest["parameters"]["trials"]
    assert trials >= 3
    assert sum(one["trials"] for one in timed.manifest["families"].values()) == trials
    assert pack(_train(trials).parts) == pack(timed.parts)
    assert "seconds" not in str(timed.manifest)
    assert "optuna" in timed.manifest["versions"]


@pytest.mark.full
def test_another_number_of_trials_or_seed_is_another_bundle() -> None:
    one = pack(_train(6).parts)
    assert pack(_train(9).parts) != one
    assert pack(_train(6, seed=8).parts) != one


def test_the_parameters_as_given_are_among_those_tried() -> None:
    found = tune(snapshot(1_500), ("xgboost",), parameters(rounds=10), lambda *_: None)
    given = found["xgboost"]
    assert (given.trials, given.parameters) == (1, parameters(rounds=10))
    more = replace(parameters(rounds=10), trials=8)
    better = tune(snapshot(1_500), ("xgboost",), more, lambda *_: None)["xgboost"]
    assert better.cross_validated >= given.cross_validated
    assert better.trials == 8


def test_a_tuned_family_is_chosen_by_cross_validation() -> None:
    families = _train(3).manifest["families"]
    best = max(families, key=lambda name: families[name]["cross_validated_pr_auc"])
    assert _train(3).manifest["family"] == best


def test_folds_reach_further_and_know_nothing_of_later() -> None:
    taken = snapshot()
    known_at = (taken.as_of + timedelta(days=30)).alias("known_at")
    made = folds(replace(taken, known_at=known_at), parameters(), 3)
    begins = [fold.validation.as_of.min() for fold in made]
    for fold, begin in zip(made, begins, strict=True):
        earlier = [part for part in (fold.training, fold.tuning) if part.known_at is not None]
        assert len(earlier) == 2
        assert all(part.known_at.max() <= begin for part in earlier if part.known_at is not None)
    assert all(
        fold.validation.as_of.max() < end
        for fold, end in zip(made, [*begins[1:], VALID_FROM], strict=True)
    )
    heights = [fold.training.frame.height for fold in made]
    assert heights == sorted(heights)
    assert heights[0] < heights[-1]


def test_too_few_rows_for_folds_are_refused() -> None:
    with pytest.raises(TooLittleData):
        tune(snapshot(400), ("xgboost",), parameters(), lambda *_: None)
