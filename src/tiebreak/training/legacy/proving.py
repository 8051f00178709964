"""Proof that a converted model is the original: its scores beside those of the caged one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.matrix import FeatureSpec
from tiebreak.core.model import Model
from tiebreak.training.legacy.converting import Converted
from tiebreak.training.legacy.mapping import Input
from tiebreak.training.legacy.reading import CagedModel, Told
from tiebreak.training.legacy.refusals import LegacyNotEqual
from tiebreak.training.parity import threshold_rows
from tiebreak.training.trees import Forest

TOLERANCE = 1e-5
DRAWN_ROWS = 500
MOST_THRESHOLD_ROWS = 20_000
_UNSEEN = "\N{EMPTY SET} never seen"
_SEED = 20_260_301


def prove(
    model: Model,
    converted: Converted,
    told: Told,
    inputs: Sequence[Input],
    caged: CagedModel,
    stored: pl.DataFrame | None,
) -> dict[str, float]:
    """The largest differences found, all within TOLERANCE; raises LegacyNotEqual.

    Compared are scores, on stored tickets where there are some, on rows drawn from what the trees
    ask for, and on rows that reach nodes with the feature at the threshold, one step of float32
    to either side, and missing. On all of them contributions add up to the margin.
    """
    frames = [draw(converted, inputs)]
    if stored is not None:
        frames.append(stored.select(frames[0].columns))
    frames = [_plain(frame, converted.specs) for frame in frames]
    base = pl.concat(frames)
    edges = _edges(model, converted.forest, base)
    rows = answerable(pl.concat([base, edges]), told, inputs)
    x = model.matrix(rows)
    margins = model.margins(x)
    native = caged.scores(raw_columns(rows, told, inputs))
    sums = model.contributions(x).sum(axis=1) + model.base_value
    differences = {
        "score": _largest(model.scores(margins), native),
        "sum": _largest(sums, margins.astype(np.float64)),
    }
    if not all(difference <= TOLERANCE for difference in differences.values()):
        raise LegacyNotEqual(
            hint="Report its shape; until then train a model here with `tiebreak train`.",
            score=differences["score"],
            sum=differences["sum"],
        )
    return {
        **differences,
        "rows": rows.height,
        "stored_rows": 0 if stored is None else stored.height,
    }


def draw(converted: Converted, inputs: Sequence[Input]) -> pl.DataFrame:
    """Rows of the workflow's features around what the trees ask for, some values missing."""
    random = np.random.default_rng(_SEED)
    columns: dict[str, pl.Series] = {}
    for feature in sorted({each.feature for each in inputs if each.feature}):
        places = [p for p, spec in enumerate(converted.specs) if spec.reads == feature]
        specs = [converted.specs[place] for place in places]
        if specs and specs[0].kind == "category":
            values: list[str | None] = [None, _UNSEEN, *_categories(specs)]
            places_drawn: list[int] = random.integers(0, len(values), DRAWN_ROWS).tolist()
            picked = [values[place] for place in places_drawn]
            columns[feature] = pl.Series(feature, picked, dtype=pl.String)
            continue
        thresholds = _thresholds(converted.forest, places)
        numbers = random.choice(thresholds, DRAWN_ROWS) * random.normal(1.0, 0.3, DRAWN_ROWS)
        numbers = numbers.astype(np.float32).astype(np.float64)
        numbers[random.random(DRAWN_ROWS) < 0.1] = np.nan
        columns[feature] = pl.Series(feature, numbers).fill_nan(None)
    return pl.DataFrame(columns)


def answerable(rows: pl.DataFrame, told: Told, inputs: Sequence[Input]) -> pl.DataFrame:
    """The rows that the original takes: not those with a category that it refuses."""
    for column in told.columns:
        encoder, feature = column.encoder, inputs[column.input].feature
        if encoder is None or feature not in rows.columns:
            continue
        known = [value for value, _ in encoder.values]
        if encoder.unseen is None:
            rows = rows.filter(pl.col(feature).is_in(known) | pl.col(feature).is_null())
        if encoder.missing is None:
            rows = rows.filter(pl.col(feature).is_not_null())
    return rows


def raw_columns(rows: pl.DataFrame, told: Told, inputs: Sequence[Input]) -> list[list[Any]]:
    """The rows as the old system sent them to the model: its inputs in order, nulls missing."""
    encoded = {column.input for column in told.columns if column.encoder is not None}
    return [_raw(rows, each, is_text=place in encoded) for place, each in enumerate(inputs)]


def _raw(rows: pl.DataFrame, given: Input, *, is_text: bool) -> list[Any]:
    if not given.feature:
        return [0.0] * rows.height
    values = rows[given.feature].to_list()
    if given.codes is not None:
        codes: dict[Any, Any] = {**given.codes, None: given.missing}
        return [codes.get(value, given.unseen) for value in values]
    if is_text or not isinstance(given.missing, float):
        return values
    return [given.missing if value is None else value for value in values]


def _plain(frame: pl.DataFrame, specs: Sequence[FeatureSpec]) -> pl.DataFrame:
    """Numbers as float64 and categories as texts, as the old system had them."""
    categories = {spec.reads for spec in specs if spec.kind == "category"}
    return frame.select(
        pl.col(name).cast(pl.String if name in categories else pl.Float64).alias(name)
        for name in frame.columns
    ).with_columns(
        # what is between two float32 numbers the bundle does not see
        pl.col(name).cast(pl.Float32).cast(pl.Float64)
        for name in frame.columns
        if name not in categories
    )


def _edges(model: Model, forest: Forest, base: pl.DataFrame) -> pl.DataFrame:
    """Rows at the nodes' thresholds, as features of the workflow."""
    x = threshold_rows(forest, model.matrix(base), _SEED)
    random = np.random.default_rng(_SEED)
    if len(x) > MOST_THRESHOLD_ROWS:
        x = x[random.choice(len(x), MOST_THRESHOLD_ROWS, replace=False)]
    filled = base[random.integers(0, base.height, len(x)).tolist()]
    for feature in {spec.reads for spec in model.features}:
        places = [p for p, spec in enumerate(model.features) if spec.reads == feature]
        specs = [model.features[place] for place in places]
        if specs[0].kind == "number":
            series = pl.Series(feature, x[:, places[0]].astype(np.float64)).fill_nan(None)
        else:
            series = pl.Series(feature, _decoded(specs, x[:, places]), dtype=pl.String)
        filled = filled.with_columns(series)
    return filled.select(base.columns)


def _decoded(specs: Sequence[FeatureSpec], x: NDArray[np.float32]) -> list[str | None]:
    """For each row the value whose codes are the nearest to the wanted ones."""
    values = [None, _UNSEEN, *_categories(specs)]
    codes = np.array([[spec.codes.get(v, spec.unseen) for spec in specs] for v in values])
    wanted = np.nan_to_num(x.astype(np.float64), nan=-1e9)
    apart = np.abs(wanted[:, None, :] - np.nan_to_num(codes, nan=-1e9)[None, :, :]).sum(axis=2)
    return [values[index] for index in apart.argmin(axis=1).tolist()]


def _categories(specs: Sequence[FeatureSpec]) -> list[str]:
    return sorted({value for spec in specs for value in spec.categories})


def _thresholds(forest: Forest, places: Sequence[int]) -> NDArray[np.float64]:
    found = [
        tree.threshold[(tree.left >= 0) & np.isin(tree.feature, places)] for tree in forest.trees
    ]
    values = np.concatenate(found).astype(np.float64)
    values = values[np.isfinite(values)]
    return values if len(values) else np.array([1.0])


def _largest(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    differences = np.abs(ours.astype(np.float64) - theirs)
    return float(np.nan_to_num(differences, nan=np.inf).max(initial=0.0))
