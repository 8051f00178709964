"""Training gives the same bytes again, refuses too little data, and proves what it exports."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import onnx
import orjson
import polars as pl
import pytest
import xgboost as xgb
from numpy.typing import NDArray
from onnx import helper
from tests.sample_models import START, VALID_FROM, parameters, snapshot

from tiebreak.bundles.format import pack
from tiebreak.core.model import MANIFEST, NATIVE, ONNX, PARTS, TABLES, Model
from tiebreak.training.dataset import Snapshot
from tiebreak.training.export import to_onnx
from tiebreak.training.fit import Parameters
from tiebreak.training.parity import TOLERANCE, ExportRefused, prove_parity
from tiebreak.training.train import TooLittleData, TrainingResult, split_by_time, train
from tiebreak.training.trees import read_forest


def _train(
    taken: Snapshot | None = None, chosen: Parameters | None = None, fingerprint: str = "here"
) -> TrainingResult:
    return train(
        taken or snapshot(),
        chosen or parameters(),
        lambda step, share: None,
        fingerprint=fingerprint,
    )


@pytest.fixture(scope="module")
def trained() -> TrainingResult:
    """A model, trained once."""
    return _train()


@pytest.fixture(scope="module")
def booster(trained: TrainingResult) -> xgb.Booster:
    """The model as it was trained."""
    return xgb.Booster(model_file=bytearray(trained.parts[NATIVE]))


@pytest.fixture(scope="module")
def validation(trained: TrainingResult) -> NDArray[np.float32]:
    """The rows that the proof uses."""
    model = Model.load(trained.parts, "digest")
    return model.matrix(split_by_time(snapshot(), parameters()).validation.frame)


def test_the_same_input_gives_the_same_bytes(trained: TrainingResult) -> None:
    assert sorted(trained.parts) == sorted(PARTS)
    assert pack(_train().parts) == pack(trained.parts)


def test_another_seed_gives_another_model(trained: TrainingResult) -> None:
    other = _train(chosen=parameters(seed=8))
    assert pack(other.parts) != pack(trained.parts)
    assert other.parts[ONNX] != trained.parts[ONNX]


def test_another_fingerprint_gives_the_same_trees_in_another_bundle(
    trained: TrainingResult,
) -> None:
    other = _train(fingerprint="elsewhere")
    assert pack(other.parts) != pack(trained.parts)
    assert {name for name in PARTS if other.parts[name] != trained.parts[name]} == {MANIFEST}


def test_the_manifest_says_what_was_done(trained: TrainingResult) -> None:
    manifest = orjson.loads(trained.parts[MANIFEST])
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


def test_progress_reports_every_step_in_order() -> None:
    seen: list[tuple[str, float]] = []
    train(
        snapshot(),
        parameters(rounds=5),
        lambda step, share: seen.append((step, share)),
        fingerprint="here",
    )
    steps = list(dict.fromkeys(step for step, _ in seen))
    assert steps == ["fit", "calibrate", "export", "prove", "done"]
    fitted = [share for step, share in seen if step == "fit"]
    assert fitted == sorted(fitted)
    assert fitted[-1] == 1.0


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
    place = next(i for i, value in enumerate(values) if value)
    found.floats[place] = values[place] + change
    return model.SerializeToString()


def _prove(
    parts: dict[str, bytes], booster: xgb.Booster, rows: NDArray[np.float32]
) -> dict[str, float]:
    return prove_parity(Model.load(parts, "digest"), booster, read_forest(booster), rows, seed=7)


def test_what_was_exported_is_proved(
    trained: TrainingResult, booster: xgb.Booster, validation: NDArray[np.float32]
) -> None:
    assert _prove(trained.parts, booster, validation) == trained.manifest["parity"]


@pytest.mark.parametrize("attribute", ["target_weights", "nodes_values"])
def test_a_graph_that_differs_in_one_number_is_refused(
    trained: TrainingResult,
    booster: xgb.Booster,
    validation: NDArray[np.float32],
    attribute: str,
) -> None:
    graph = _altered_onnx(trained.parts[ONNX], attribute, 0.01)
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, ONNX: graph}, booster, validation)


def test_a_graph_without_its_last_tree_is_refused(
    trained: TrainingResult, booster: xgb.Booster, validation: NDArray[np.float32]
) -> None:
    shorter = to_onnx(booster[: booster.num_boosted_rounds() - 1])
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, ONNX: shorter}, booster, validation)


def test_tables_that_differ_are_refused(
    trained: TrainingResult, booster: xgb.Booster, validation: NDArray[np.float32]
) -> None:
    tables = Model.load(trained.parts, "digest").tables
    values = tables.values.copy()
    values[: tables.table_sizes[0]] += np.float32(0.001)
    altered = replace(tables, values=values).dump()
    with pytest.raises(ExportRefused):
        _prove({**trained.parts, TABLES: altered}, booster, validation)
