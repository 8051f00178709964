"""Training gives the same bytes again, refuses too little data, and proves what it exports."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version

import numpy as np
import onnx
import orjson
import polars as pl
import pytest
from numpy.typing import NDArray
from onnx import helper
from tests.sample_models import START, VALID_FROM, native, parameters, snapshot

from tiebreak.bundles.format import pack
from tiebreak.core.model import CALIBRATOR, MANIFEST, ONNX, TABLES, Model, text_part
from tiebreak.core.workflow import FamilyChoice
from tiebreak.training.dataset import Snapshot
from tiebreak.training.export import to_onnx
from tiebreak.training.fit import FAMILIES, Booster, Family, Parameters, TooDeep
from tiebreak.training.fitted import NothingLearnt
from tiebreak.training.parity import TOLERANCE, ExportRefused, prove_parity
from tiebreak.training.prepare import TooLittleData, folds, split_by_time
from tiebreak.training.train import TrainingResult, train

LIBRARIES = {
    "xgboost": "xgboost-cpu",
    "lightgbm": "lightgbm",
    "hist_gradient_boosting": "scikit-learn",
    "ebm": "interpret-core",
}


def _train(
    taken: Snapshot | None = None, chosen: Parameters | None = None, fingerprint: str = "here"
) -> TrainingResult:
    return train(
        taken or snapshot(),
        chosen or parameters(),
        lambda step, share: None,
        fingerprint=fingerprint,
    )


@pytest.fixture(scope="module", params=[*FAMILIES, "ebm"])
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn."""
    return request.param


@pytest.fixture(scope="module")
def trained(family: Family) -> TrainingResult:
    """A model of the family, trained once."""
    return _train(chosen=parameters(family=family))


@pytest.fixture(scope="module")
def booster(trained: TrainingResult) -> Booster:
    """The model as it was trained."""
    return native(trained.parts)


@pytest.fixture(scope="module")
def validation(trained: TrainingResult) -> NDArray[np.float32]:
    """The rows that the proof uses."""
    model = Model.load(trained.parts, "digest")
    return model.matrix(split_by_time(snapshot(), parameters()).validation.frame)


def test_the_same_input_gives_the_same_bytes(trained: TrainingResult, family: Family) -> None:
    own = "model.ubj" if family == "xgboost" else "model.txt"
    assert trained.parts.keys() == {MANIFEST, ONNX, TABLES, CALIBRATOR, own, text_part("said")}
    assert pack(_train(chosen=parameters(family=family)).parts) == pack(trained.parts)


def test_another_seed_gives_another_model(family: Family) -> None:
    one, other = (
        _train(chosen=replace(parameters(seed=seed, family=family), feature_share=0.5))
        for seed in (7, 8)
    )
    assert pack(other.parts) != pack(one.parts)
    assert other.parts[ONNX] != one.parts[ONNX]


def test_another_fingerprint_gives_the_same_trees_in_another_bundle(
    trained: TrainingResult, family: Family
) -> None:
    other = _train(chosen=parameters(family=family), fingerprint="elsewhere")
    assert pack(other.parts) != pack(trained.parts)
    assert _differing(other, trained) == {MANIFEST}


def _differing(one: TrainingResult, other: TrainingResult) -> set[str]:
    """The parts that one has not as the other has them."""
    return {name for name, data in one.parts.items() if data != other.parts.get(name)}


def test_the_manifest_says_what_was_done(trained: TrainingResult, family: Family) -> None:
    manifest = orjson.loads(trained.parts[MANIFEST])
    assert manifest["family"] == manifest["parameters"]["family"] == family
    library = LIBRARIES[family]
    assert manifest["versions"][library] == version(library)
    assert manifest["families"][family]["pr_auc"] == manifest["metrics"]["pr_auc"]
    split = split_by_time(snapshot(), parameters())
    assert manifest["fingerprint"] == "here"
    assert manifest["seed"] == 7
    assert manifest["data_hash"] == snapshot().data_hash
    assert manifest["rows"] == {
        "training": split.training.frame.height,
        "tuning": split.tuning.frame.height,
        "validation": split.validation.frame.height,
    }
    assert all(manifest["parity"][kind] <= TOLERANCE for kind in ("margin", "sum", "contribution"))
    assert manifest["parity"]["rows"] > split.validation.frame.height


@pytest.mark.parametrize("choice", [*FAMILIES, "best"])
def test_progress_reports_every_step_in_order(choice: FamilyChoice) -> None:
    seen: list[tuple[str, float]] = []
    train(
        snapshot(),
        parameters(rounds=5, family=choice),
        lambda step, share: seen.append((step, share)),
        fingerprint="here",
    )
    steps = list(dict.fromkeys(step for step, _ in seen))
    assert steps == ["texts", "leakage", "fit", "calibrate", "export", "prove", "done"]
    fitted = [share for step, share in seen if step == "fit"]
    assert fitted == sorted(fitted)
    assert fitted[-1] == 1.0


@pytest.mark.parametrize(("seed", "better"), [(6, "lightgbm"), (4, "xgboost")])
def test_the_best_family_is_the_one_that_ranks_validation_rows_better(
    seed: int, better: Family
) -> None:
    taken = snapshot(seed=seed)
    both = _train(taken, parameters(family="best"))
    alone = {family: _train(taken, parameters(family=family)) for family in FAMILIES}
    ranked = {family: result.manifest["metrics"]["pr_auc"] for family, result in alone.items()}
    assert max(ranked, key=lambda family: ranked[family]) == both.manifest["family"] == better
    assert {f: one["pr_auc"] for f, one in both.manifest["families"].items()} == ranked
    assert _differing(both, alone[better]) == {MANIFEST}


def test_where_no_row_lacks_a_value_a_missing_one_is_scored_as_trained(family: Family) -> None:
    taken = snapshot()
    around_zero = [(pl.col(name).fill_null(1) - 1) for name in ("depth_m", "member_count")]
    whole = taken.frame.with_columns(*around_zero, pl.col("urgent").fill_null(value=False))
    result = _train(replace(taken, frame=whole), parameters(family=family))
    assert result.manifest["parity"]["margin"] <= TOLERANCE


def test_features_that_tell_nothing_are_refused(family: Family) -> None:
    taken = snapshot()
    same = taken.frame.with_columns(pl.all().first())
    with pytest.raises(NothingLearnt):
        _train(replace(taken, frame=same), parameters(family=family))


@pytest.mark.parametrize("depth", [0, 9])
def test_trees_of_unfit_depth_are_refused(depth: int) -> None:
    with pytest.raises(TooDeep):
        parameters(max_depth=depth)


def test_the_parts_of_a_split_follow_each_other_in_time() -> None:
    split = split_by_time(snapshot(), parameters())
    assert split.training.as_of.max() < split.tuning.as_of.min()
    assert split.tuning.as_of.max() < VALID_FROM <= split.validation.as_of.min()
    heights = [p.frame.height for p in (split.training, split.tuning, split.validation)]
    assert sum(heights) == snapshot().frame.height


def test_labels_not_yet_known_at_the_cut_neither_train_nor_validate() -> None:
    taken = snapshot()
    known_at = (taken.as_of + timedelta(days=30)).alias("known_at")
    split = split_by_time(replace(taken, known_at=known_at), parameters())
    before = pl.concat([split.training.as_of, split.tuning.as_of])
    assert before.max() <= VALID_FROM - timedelta(days=30)
    assert split.validation.as_of.min() >= VALID_FROM


def test_tickets_before_train_from_are_in_no_part_and_in_no_fold() -> None:
    since = START + (VALID_FROM - START) / 4
    whole, late = parameters(), replace(parameters(), train_from=since)
    split = split_by_time(snapshot(), late)
    assert split_by_time(snapshot(), whole).training.as_of.min() < since
    assert split.training.as_of.min() >= since
    assert split.validation.as_of.min() >= VALID_FROM
    assert all(fold.training.as_of.min() >= since for fold in folds(snapshot(), late, 2))
    assert "train_from" not in whole.listed()
    assert late.listed()["train_from"] == since


def test_from_tune_from_on_tickets_tune_and_labels_known_by_then_teach() -> None:
    since, late = START + (VALID_FROM - START) / 2, timedelta(days=30)
    taken = snapshot()
    taken = replace(taken, known_at=(taken.as_of + late).alias("known_at"))
    chosen = replace(parameters(), tune_from=since)
    split = split_by_time(taken, chosen)
    day = timedelta(days=1)
    latest, first, last = split.training.as_of[-1], split.tuning.as_of[0], split.tuning.as_of[-1]
    assert since - late - day < latest <= since - late
    assert since <= first < since + day
    assert VALID_FROM - late - day < last <= VALID_FROM - late
    assert all(fold.tuning.frame.height for fold in folds(taken, chosen, 2))
    assert "tune_from" not in parameters().listed()
    manifest = _train(taken, replace(chosen, rounds=5)).manifest
    assert manifest["parameters"]["tune_from"] == since
    assert manifest["rows"]["tuning"] == split.tuning.frame.height


def test_a_tune_from_after_which_nothing_is_left_to_tune_on_is_refused() -> None:
    with pytest.raises(TooLittleData, match="tuning part") as caught:
        _train(chosen=replace(parameters(), tune_from=VALID_FROM))
    assert "tune_from" in str(caught.value.hint)


@pytest.mark.parametrize("label", [False, True])
def test_a_single_class_is_too_little(label: bool) -> None:
    taken = snapshot()
    one_class = pl.Series("label", [label] * taken.frame.height)
    with pytest.raises(TooLittleData, match="training part"):
        _train(replace(taken, label=one_class))


def test_a_single_class_in_the_tuning_rows_is_too_little() -> None:
    taken = snapshot()
    first_tuned = split_by_time(taken, parameters()).tuning.as_of.min()
    with pytest.raises(TooLittleData, match="tuning part"):
        _train(replace(taken, label=taken.label & (taken.as_of < first_tuned)))


def test_few_rows_are_too_little() -> None:
    with pytest.raises(TooLittleData, match="at least 200 are needed"):
        _train(snapshot(rows=150))


def test_no_rows_to_train_on_are_too_little() -> None:
    with pytest.raises(TooLittleData) as caught:
        _train(chosen=replace(parameters(), valid_from=START - timedelta(days=1)))
    assert "later valid_from" in str(caught.value.hint)


def test_no_rows_to_validate_on_are_too_little() -> None:
    with pytest.raises(TooLittleData) as caught:
        _train(chosen=replace(parameters(), valid_from=START + timedelta(days=800)))
    assert "earlier valid_from" in str(caught.value.hint)


def _altered_onnx(data: bytes, attribute: str, change: float) -> bytes:
    """The graph with the first non-zero value of an attribute changed."""
    model = onnx.load_model_from_string(data)
    (node,) = model.graph.node
    (found,) = [item for item in node.attribute if item.name == attribute]
    values = list(helper.get_attribute_value(found))
    place = next(i for i, value in enumerate(values) if value and np.isfinite(value))
    found.floats[place] = values[place] + change
    return model.SerializeToString()


def _prove(
    parts: dict[str, bytes], booster: Booster, rows: NDArray[np.float32]
) -> dict[str, float]:
    return prove_parity(Model.load(parts, "digest"), booster, booster.forest(), rows, seed=7)


def test_what_was_exported_is_proved(
    trained: TrainingResult, booster: Booster, validation: NDArray[np.float32]
) -> None:
    # of two families what is kept is another library's reading of their trees
    assert _prove(trained.parts, booster, validation) == pytest.approx(
        trained.manifest["parity"], abs=1e-12
    )


@pytest.mark.parametrize("attribute", ["target_weights", "nodes_values"])
def test_a_graph_that_differs_in_one_number_is_refused(
    trained: TrainingResult,
    booster: Booster,
    validation: NDArray[np.float32],
    attribute: str,
) -> None:
    graph = _altered_onnx(trained.parts[ONNX], attribute, 0.01)
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, ONNX: graph}, booster, validation)


def test_a_threshold_one_step_of_float32_off_is_refused(
    trained: TrainingResult, booster: Booster, validation: NDArray[np.float32]
) -> None:
    forest = booster.forest()
    first, *others = forest.trees
    threshold = first.threshold.copy()
    place = int(np.flatnonzero((first.left >= 0) & np.isfinite(threshold))[0])
    threshold[place] = np.nextafter(threshold[place], np.float32(np.inf))
    shifted = replace(forest, trees=(replace(first, threshold=threshold), *others))
    graph = to_onnx(shifted)
    # rows at which nobody looked would not have told
    altered = Model.load({**trained.parts, ONNX: graph}, "digest").margins(validation)
    assert np.abs(altered - booster.margins(validation)).max() <= TOLERANCE
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, ONNX: graph}, booster, validation)


def test_a_graph_without_its_last_tree_is_refused(
    trained: TrainingResult, booster: Booster, validation: NDArray[np.float32]
) -> None:
    forest = booster.forest()
    shorter = to_onnx(replace(forest, trees=forest.trees[:-1]))
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, ONNX: shorter}, booster, validation)


def test_tables_that_differ_are_refused(
    trained: TrainingResult, booster: Booster, validation: NDArray[np.float32]
) -> None:
    tables = Model.load(trained.parts, "digest").tables
    values = tables.values.copy()
    values[: tables.table_sizes[0]] += np.float32(0.001)
    altered = replace(tables, values=values).dump()
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, TABLES: altered}, booster, validation)
