"""A served model gives what the trained model gives, whatever batch a row comes in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from tests.sample_models import frame_of, native, parameters, snapshot

from tiebreak.core.matrix import FIRST_KNOWN, MISSING, UNSEEN, FeatureColumnMissing
from tiebreak.core.model import CALIBRATOR, MANIFEST, TABLES, Model, ModelMalformed, text_part
from tiebreak.core.workflow import Cuts
from tiebreak.training.fit import FAMILIES, Booster
from tiebreak.training.train import TrainingResult, train

TOLERANCE = 1e-5
ROWS = 1_000
BATCHES = (1, 2, 7, 64)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request: pytest.FixtureRequest) -> TrainingResult:
    """A model of each family, trained once."""
    chosen = parameters(family=request.param)
    return train(snapshot(), chosen, lambda step, share: None, fingerprint="here")


@pytest.fixture(scope="module")
def model(trained: TrainingResult) -> Model:
    """The model as it is served."""
    return Model.load(trained.parts, "digest")


@pytest.fixture(scope="module")
def booster(trained: TrainingResult) -> Booster:
    """The model as it was trained."""
    return native(trained.parts)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Tickets that the model has not seen, one of them empty, some of an unseen town."""
    unseen = frame_of(20, seed=98).with_columns(town=pl.lit("Atlantis"), dig_method=pl.lit("laser"))
    return pl.concat([frame_of(ROWS, seed=99), unseen, frame_of(1, seed=97).clear(1)])


@pytest.fixture(scope="module")
def x(model: Model, frame: pl.DataFrame) -> NDArray[np.float32]:
    """Their matrix, and rows at thresholds and ends of float32."""
    matrix = model.matrix(frame)
    at_thresholds = matrix[:64].copy()
    tables = model.tables
    for row, node in enumerate(range(min(64, len(tables.node_features)))):
        at_thresholds[row, tables.node_features[node]] = tables.node_thresholds[node]
    ends = np.full((2, matrix.shape[1]), np.finfo(np.float32).max, dtype=np.float32)
    ends[1] *= -1
    return np.concatenate([matrix, at_thresholds, ends])


def test_contributions_are_those_of_the_library(
    model: Model, booster: Booster, x: NDArray[np.float32]
) -> None:
    theirs = booster.contributions(x)
    assert np.abs(model.contributions(x) - theirs[:, :-1]).max() <= TOLERANCE
    assert np.abs(model.base_value - theirs[:, -1]).max() <= TOLERANCE
    assert (np.abs(theirs[:, :-1]).max(axis=0) > 0).all()  # no feature is compared in vain


def test_contributions_and_base_value_add_up_to_the_margin(
    model: Model, booster: Booster, x: NDArray[np.float32]
) -> None:
    sums = model.contributions(x).sum(axis=1) + model.base_value
    assert np.abs(sums - model.margins(x)).max() <= TOLERANCE
    assert np.abs(sums - booster.margins(x)).max() <= TOLERANCE


def test_margins_are_those_of_the_library(
    model: Model, booster: Booster, x: NDArray[np.float32]
) -> None:
    theirs = booster.margins(x)
    assert np.abs(model.margins(x) - theirs).max() <= TOLERANCE
    assert theirs.std() > 0.1


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize(
    "compute",
    [
        lambda model, x: model.margins(x),
        lambda model, x: model.scores(model.margins(x)),
        lambda model, x: model.contributions(x),
    ],
    ids=["margins", "scores", "contributions"],
)
def test_bits_do_not_depend_on_the_batch(
    model: Model,
    x: NDArray[np.float32],
    compute: Callable[[Model, NDArray[np.float32]], NDArray[np.floating]],
    rows: int,
) -> None:
    whole = compute(model, x)
    batches = [compute(model, x[start : start + rows]) for start in range(0, len(x), rows)]
    assert np.concatenate(batches).tobytes() == whole.tobytes()
    order = np.random.default_rng(rows).permutation(len(x))
    shuffled = x[order]
    batches = [compute(model, shuffled[start : start + rows]) for start in range(0, len(x), rows)]
    assert np.concatenate(batches).tobytes() == whole[order].tobytes()


@pytest.mark.parametrize("rows", BATCHES)
def test_bits_of_the_matrix_do_not_depend_on_the_batch(
    model: Model, frame: pl.DataFrame, rows: int
) -> None:
    whole = model.matrix(frame)
    parts = [model.matrix(frame[start : start + rows]) for start in range(0, frame.height, rows)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    order = np.random.default_rng(rows).permutation(frame.height)
    shuffled = frame[order.tolist()]
    parts = [model.matrix(shuffled[start : start + rows]) for start in range(0, len(order), rows)]
    assert np.concatenate(parts).tobytes() == whole[order].tobytes()


def _dense_margins(model: Model) -> NDArray[np.float32]:
    """Margins all over the calibrator, the neighbours of its knots, and far beyond them."""
    knots = model.calibrator.margins.astype(np.float32)
    low, high = knots[0] - 2, knots[-1] + 2
    ends = np.array([-np.inf, -3e38, 3e38, np.inf], dtype=np.float32)
    below, above = np.nextafter(knots, -np.inf), np.nextafter(knots, np.inf)
    line = np.linspace(low, high, 50_001, dtype=np.float32)
    return np.sort(np.concatenate([line, knots, below, above, ends]))


def test_scores_never_fall_with_the_margin(model: Model) -> None:
    scores = model.scores(_dense_margins(model))
    assert (np.diff(scores) >= 0).all()
    assert 0.0 <= scores[0] < scores[-1] <= 1.0


@pytest.mark.parametrize(
    "cuts",
    [
        Cuts(medium=0.1, high=0.3, critical=0.6),
        Cuts(medium=0.2, high=0.4, critical=0.5),
        Cuts(medium=1e-9, high=0.5, critical=1.0 - 1e-9),
    ],
    ids=str,
)
def test_a_margin_reaches_a_cut_where_its_score_reaches_the_probability(
    model: Model, cuts: Cuts
) -> None:
    margin_cuts = model.margin_cuts(cuts)
    probabilities = (cuts.medium, cuts.high, cuts.critical)
    for cut, probability in zip(margin_cuts, probabilities, strict=True):
        near = np.float32(cut)
        neighbours = [np.nextafter(near, np.float32(-np.inf)), near]
        neighbours.append(np.nextafter(near, np.float32(np.inf)))
        margins = np.concatenate([_dense_margins(model), np.array(neighbours, dtype=np.float32)])
        finite = margins[np.isfinite(margins)]
        assert ((finite >= cut) == (model.scores(finite) >= probability)).all()
    assert sorted(margin_cuts) == list(margin_cuts)


def test_rows_without_any_value_are_scored_and_explained(model: Model, booster: Booster) -> None:
    empty = np.full((3, len(model.features)), np.nan, dtype=np.float32)
    theirs = booster.contributions(empty)
    assert np.isfinite(model.scores(model.margins(empty))).all()
    assert np.abs(model.contributions(empty) - theirs[:, :-1]).max() <= TOLERANCE


def test_missing_and_unseen_values_have_codes_of_their_own(model: Model) -> None:
    frame = pl.DataFrame(
        {
            "depth_m": pl.Series([None, float("nan"), 1e300, 1.5], dtype=pl.Float64),
            "member_count": pl.Series([None, 1, 2, 3], dtype=pl.Int64),
            "urgent": pl.Series([None, False, True, True]),
            "dig_method": pl.Series([None, "laser", "boring", "Boring"]),
            "town": pl.Series([None, "", "town 1", "Atlantis"]),
            "said": pl.Series([None, "", "gas gas", "Vogel"]),
        }
    )
    by_name = {spec.name: place for place, spec in enumerate(model.features)}
    x = model.matrix(frame)
    assert np.isnan(x[:2, by_name["depth_m"]]).all()
    assert x[2:, by_name["depth_m"]].tolist() == [float(np.finfo(np.float32).max), 1.5]
    assert np.isnan(x[0, by_name["member_count"]])
    assert np.isnan(x[0, by_name["urgent"]])
    assert x[1:, by_name["urgent"]].tolist() == [0.0, 1.0, 1.0]
    said = x[:, by_name["said"]]
    assert np.isnan(said[0])
    assert said[1] == said[3] < said[2]  # no known word, and the one that tells most
    for name, seen in (("dig_method", "boring"), ("town", "town 1")):
        spec = model.features[by_name[name]]
        known = FIRST_KNOWN + spec.categories.index(seen)
        assert x[:, by_name[name]].tolist() == [MISSING, UNSEEN, known, UNSEEN]
    assert np.isfinite(model.scores(model.margins(x))).all()
    assert np.isfinite(model.contributions(x)).all()


def test_no_rows_give_no_results(model: Model, frame: pl.DataFrame) -> None:
    x = model.matrix(frame[:0])
    assert x.shape == (0, len(model.features))
    assert model.margins(x).shape == (0,)
    assert model.scores(model.margins(x)).shape == (0,)
    assert model.contributions(x).shape == x.shape


def test_a_feature_that_is_not_there_is_named(model: Model, frame: pl.DataFrame) -> None:
    with pytest.raises(FeatureColumnMissing):
        model.matrix(frame.drop("town"))


@pytest.mark.parametrize("part", [MANIFEST, TABLES, CALIBRATOR, text_part("said")])
def test_a_model_without_one_of_its_parts_does_not_load(trained: TrainingResult, part: str) -> None:
    parts = {name: data for name, data in trained.parts.items() if name != part}
    with pytest.raises(ModelMalformed):
        Model.load(parts, "digest")
