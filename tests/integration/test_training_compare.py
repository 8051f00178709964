"""Comparisons: every contender on the same rows, the bundle untouched, groups told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from tests.sample_models import VALID_FROM, parameters, snapshot

from tiebreak.bundles.format import pack
from tiebreak.training import ebm_booster
from tiebreak.training.dataset import RULES_BAND, RULES_POINTS, SLICE, Snapshot
from tiebreak.training.prepare import TooLittleData
from tiebreak.training.train import TrainingResult, train


def sliced() -> Snapshot:
    """The sample with rules that look at depth, told apart by method."""
    taken = snapshot()
    points = (taken.frame["depth_m"].fill_null(0.0) * 10).cast(pl.Int64)
    return replace(
        taken,
        workflow=taken.workflow.model_copy(update={"slices": ("method",)}),
        frame=taken.frame.with_columns(
            points.alias(RULES_POINTS),
            pl.lit(0, pl.Int8).alias(RULES_BAND),
            taken.frame["dig_method"].alias(f"{SLICE}method"),
        ),
    )


def _train(taken: Snapshot, *, is_compared: bool = True) -> TrainingResult:
    chosen = replace(parameters(rounds=20), is_compared=is_compared, reviews_a_day=2.0)
    return train(taken, chosen, lambda *_: None, fingerprint="here")


@pytest.fixture(scope="module")
def compared() -> TrainingResult:
    return _train(sliced())


@pytest.fixture(scope="module")
def report(compared: TrainingResult) -> dict[str, Any]:
    assert compared.report is not None
    return compared.report


def test_a_report_changes_no_byte_of_the_bundle(compared: TrainingResult) -> None:
    alone = _train(sliced(), is_compared=False)
    assert alone.report is None
    assert pack(alone.parts) == pack(compared.parts)


def test_all_are_judged_and_stand_in_order(
    compared: TrainingResult, report: dict[str, Any]
) -> None:
    ranked = {one["name"]: one["figures"]["pr_auc"]["value"] for one in report["contenders"]}
    assert list(ranked.values()) == sorted(ranked.values(), reverse=True)
    assert ranked.keys() >= {"xgboost", "lightgbm", "hist_gradient_boosting", "ebm"}
    assert ranked["xgboost"] == pytest.approx(compared.metrics["pr_auc"])
    assert ranked["linear"] > ranked["rules"] > report["validation"]["base_rate"]
    assert report["verdict"]["is_worth_serving"]
    assert report["against"].keys() == ranked.keys() - {"xgboost"}


def test_the_capacity_is_what_people_can_review(report: dict[str, Any]) -> None:
    days, rows = report["validation"]["days"], report["validation"]["rows"]
    assert report["capacity"]["share"] == pytest.approx(2.0 * days / rows)


def test_groups_are_told_apart(report: dict[str, Any]) -> None:
    parts = {part["value"]: part for part in report["slices"]["method"]}
    taken = sliced()
    is_there = (taken.as_of >= VALID_FROM) & (taken.frame["dig_method"] == "boring")
    assert parts["boring"]["rows"] == is_there.sum()
    assert parts["boring"]["positives"] == (is_there & taken.label).sum()
    assert all(part["figures"]["auc"]["value"] > 0.6 for part in parts.values())


def test_the_manifest_has_the_figures_of_groups(
    compared: TrainingResult, report: dict[str, Any]
) -> None:
    told = compared.manifest["slices"]
    parts = {f"method = {part['value']}": part for part in report["slices"]["method"]}
    assert told.keys() == parts.keys() >= {"method = boring"}
    for name, part in parts.items():
        assert (told[name]["rows"], told[name]["positives"]) == (part["rows"], part["positives"])
        assert told[name]["auc"] == pytest.approx(part["figures"]["auc"]["value"])
    assert (
        "slices" not in train(snapshot(), parameters(5), lambda *_: None, fingerprint="").manifest
    )


def test_a_family_that_cannot_train_here_is_named(
    monkeypatch: pytest.MonkeyPatch, report: dict[str, Any]
) -> None:
    assert report["left_out"] == {}
    monkeypatch.setattr(ebm_booster, "is_installed", lambda: False)
    told = _train(sliced()).report
    assert told is not None
    assert "ebm" not in {one["name"] for one in told["contenders"]}
    assert "ebm was not compared: the extra `ebm` is not installed." in told["verdict"]["said"]


def test_rules_that_know_more_than_the_model_win() -> None:
    taken = sliced()
    knowing = taken.label.cast(pl.Int64).alias(RULES_POINTS)
    told = _train(replace(taken, frame=taken.frame.with_columns(knowing))).report
    assert told is not None
    assert (told["verdict"]["use"], told["verdict"]["is_worth_serving"]) == ("rules", False)
    assert "worse than the rules alone" in told["verdict"]["said"][0]


def test_nothing_is_compared_where_all_end_alike() -> None:
    taken = sliced()
    with pytest.raises(TooLittleData, match="validation part"):
        _train(replace(taken, label=taken.label & (taken.as_of < VALID_FROM)))
