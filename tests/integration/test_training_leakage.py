"""Leaks are named and stop a run, unless they are waived with a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.sample_models import START, parameters, snapshot

from tiebreak.training.dataset import IS_DECIDED, Origin, Snapshot
from tiebreak.training.leakage import LeakageFound, WaiverUnfit
from tiebreak.training.likeness import Likeness
from tiebreak.training.train import TrainingResult, train


def _train(taken: Snapshot, waived: Mapping[str, str] | None = None) -> TrainingResult:
    chosen = replace(parameters(rounds=5), waived=waived or {})
    return train(taken, chosen, lambda *_: None, fingerprint="here")


def _with(taken: Snapshot, name: str, values: pl.Series) -> Snapshot:
    return replace(taken, frame=taken.frame.with_columns(values.alias(name)))


def _leaks(taken: Snapshot) -> dict[str, str]:
    with pytest.raises(LeakageFound) as caught:
        _train(taken)
    assert "--waive-leakage" in str(caught.value.hint)
    leaks = caught.value.fields["leaks"]
    assert isinstance(leaks, list)
    assert all(leak["feature"] in caught.value.message for leak in leaks)
    return {leak["feature"]: leak["kind"] for leak in leaks}


def test_sound_features_pass_and_are_told() -> None:
    told = _train(snapshot()).manifest["leakage"]
    assert told["waived"] == []
    assert next(iter(told["strongest"])) == "depth_m"


def test_a_number_that_knows_the_label_is_named() -> None:
    taken = snapshot()
    noise = np.random.default_rng(1).normal(0, 0.2, taken.frame.height)
    leaking = pl.Series(taken.targets + noise)
    assert _leaks(_with(taken, "depth_m", leaking)) == {"depth_m": "knows_label"}


def test_a_value_that_is_missing_where_all_ended_well_is_named() -> None:
    taken = snapshot()
    costs = pl.Series([1 if bad else None for bad in taken.label], dtype=pl.Int64)
    assert _leaks(_with(taken, "member_count", costs)) == {"member_count": "knows_label"}


@pytest.mark.parametrize("name", ["dig_method", "said"])
def test_a_word_that_knows_the_label_is_named(name: str) -> None:
    taken = snapshot()
    words = pl.Series(["was repaired" if bad else "all is well" for bad in taken.label])
    assert _leaks(_with(taken, name, words)) == {name: "knows_label"}


def test_a_waived_leak_trains_and_stands_in_the_manifest() -> None:
    taken = snapshot()
    leaking = _with(taken, "depth_m", pl.Series(taken.targets.astype(np.float64)))
    result = _train(leaking, {"depth_m": "the label is what it is"})
    (waived,) = result.manifest["leakage"]["waived"]
    assert (waived["feature"], waived["reason"]) == ("depth_m", "the label is what it is")
    assert waived["figure"] > 0.95
    assert result.manifest["parameters"]["waived"] == {"depth_m": "the label is what it is"}


@pytest.mark.parametrize("waived", [{"dept_m": "why"}, {"depth_m": " "}])
def test_an_unfit_waiver_is_refused(waived: dict[str, str]) -> None:
    with pytest.raises(WaiverUnfit):
        _train(snapshot(), waived)


def _origin(unlike: Mapping[str, int]) -> Origin:
    return Origin(START, "rules", compared=500, unlike_serving=unlike, left_out={})


def test_a_feature_that_was_served_otherwise_is_named() -> None:
    differing = replace(snapshot(), origin=_origin({"town": 40, "urgent": 2}))
    assert _leaks(differing) == {"town": "differs_from_serving"}


def test_a_feature_that_is_only_there_in_imported_tickets_is_named() -> None:
    taken = snapshot()
    is_decided = np.arange(taken.frame.height) >= 2_000
    depth = taken.frame["depth_m"].to_list()
    gone = pl.Series([None if now else v for v, now in zip(depth, is_decided, strict=True)])
    marked = _with(taken, IS_DECIDED, pl.Series(is_decided))
    assert _train(marked).manifest["leakage"]["waived"] == []
    assert _leaks(_with(marked, "depth_m", gone)) == {"depth_m": "jumps_at_serving"}


def test_what_moves_anyway_does_not_jump_at_serving() -> None:
    """A month is another when tickets begin to be decided, and was another before."""
    taken = snapshot()
    rows = np.arange(taken.frame.height)
    marked = _with(taken, IS_DECIDED, pl.Series(rows >= 2_000))
    months = pl.Series(rows // 500, dtype=pl.Int64)
    assert _train(_with(marked, "member_count", months)).manifest["leakage"]["waived"] == []


def test_values_of_a_decision_are_compared_with_the_features_of_its_ticket() -> None:
    trained = pl.DataFrame({"a": [1.5, 2.0, float("nan")], "b": ["x", "y", None]})
    anew = trained.with_columns(b=pl.Series(["x", "z", None]))
    fired = ['[{"values": {"a": 1.5, "other": 1}}]', '[{"values": {"a": 3.0}}]']
    found = Likeness()
    found.count(("a", "b"), trained, anew, [*fired, '[{"values": {"a": null}}]'])
    assert (found.compared, dict(found.differing)) == (3, {"a": 1, "b": 1})
