"""Which models can be described, and how: trees and what stands before them, as plain data.

Runs in the cage. A model is one of the classifiers below, alone or behind preprocessing of which
each column depends on one input. What is told of it:

    inputs   names, or the count of them
    columns  what the trees read: {input, encoder, steps}
    rule     how a node decides on its value and threshold: lt32, le32 or le64
    trees    [{left, right, feature, threshold, missing, value, cover}]
    base     the margin that the trees add to
    link     logistic: the score is 1 / (1 + exp(-margin)); identity: the margin is the score

`missing` of a node is 1 left, 0 right, -1 where the model takes no missing values. An encoder is
{values: [[value, code]], unseen, missing}, with null where it has no answer; steps are
[operation, number] in order: fill, sub, div, mul, add, clip_low, clip_high, zero.
"""

# scikit-learn, XGBoost and LightGBM come with few types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import xgboost as xgb
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier

from tiebreak.training.legacy.refusals import Refused
from tiebreak.training.lightgbm_booster import lgb
from tiebreak.training.xgboost_booster import XgboostBooster

Json = dict[str, Any]
LIGHTGBM_ZERO = 1e-35  # what is not further from 0 counts as 0


@dataclass(frozen=True)
class Described:
    """What is told of a model, and its own probabilities of raw rows."""

    listed: Json
    score: Callable[[Any], Any]


@dataclass(frozen=True)
class Column:
    """What the trees read in one place: an input, encoded or not, and the steps it takes."""

    input: int
    encoder: Json | None = None
    steps: tuple[tuple[str, float], ...] = ()

    def then(self, *steps: tuple[str, Any]) -> Column:
        """The same after further steps."""
        told = tuple((name, float(number)) for name, number in steps)
        return replace(self, steps=self.steps + told)


def warm() -> None:
    """Load and run everything once: in the cage nothing can be loaded."""
    x, y = np.array([[0.0, 1.0], [1.0, 0.0]] * 30), np.array([0, 1] * 30)
    models: list[Any] = [
        xgb.XGBClassifier(n_estimators=1, n_jobs=1),
        lgb.LGBMClassifier(n_estimators=1, n_jobs=1, verbosity=-1),
        RandomForestClassifier(1),
        GradientBoostingClassifier(n_estimators=1),
        HistGradientBoostingClassifier(max_iter=1),
        Pipeline([("impute", SimpleImputer()), ("scale", StandardScaler()), ("tree", _tree())]),
        Pipeline([("code", OneHotEncoder()), ("tree", _tree())]),
    ]
    for model in models:
        model.fit(x, y).predict_proba(x)
    describe(models[0].get_booster())
    describe(models[1].booster_)


def _tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=1)


def describe(model: Any) -> Described:
    """What the model is; raises Refused with the reason where it has another shape."""
    steps = [step for _, step in model.steps] if type(model) is Pipeline else [model]
    before, final = [s for s in steps[:-1] if not _is_nothing(s)], steps[-1]
    described = _final(final)
    told = described.listed
    names = getattr(before[0] if before else final, "feature_names_in_", None)
    count = int(before[0].n_features_in_) if before else told["count"]
    columns = [Column(place) for place in range(count)]
    for step in before:
        columns = _after(step, columns)
    if len(columns) != told["count"]:
        raise Refused("its steps do not fit together")
    if before and told["library"] == "xgboost" and _is_sparse(before[-1]):
        raise Refused(
            "it hands a sparse matrix to XGBoost, which takes its zeros for missing values; "
            "make the encoder's sparse_output False and train anew"
        )
    if told["library"] == "lightgbm":
        columns = [column.then(("zero", LIGHTGBM_ZERO)) for column in columns]
    used = {column.input for column in columns}
    told |= {
        "inputs": _names(names, told.pop("names", None), count),
        "used": sorted(used),
        "columns": [
            {"input": c.input, "encoder": c.encoder, "steps": list(c.steps)} for c in columns
        ],
        "shape": " → ".join(type(step).__name__ for step in [*before, final]),
    }
    score = described.score
    return Described(told, (lambda rows: model.predict_proba(rows)[:, 1]) if before else score)


def _names(given: Any, of_model: Any, count: int) -> list[str] | int:
    found = of_model if given is None else given
    return count if found is None else [str(name) for name in found]


def _is_nothing(step: Any) -> bool:
    return step is None or (isinstance(step, str) and step == "passthrough")


# --- preprocessing -------------------------------------------------------------------------


def _after(step: Any, columns: Sequence[Column]) -> list[Column]:
    """The columns that a step makes of these."""
    if _is_nothing(step):
        return list(columns)
    kind = type(step)
    if kind is Pipeline:
        for _, inner in step.steps:
            columns = _after(inner, columns)
        return list(columns)
    make = _STEPS.get(kind)
    if make is None:
        raise Refused(f"{kind.__name__} is none of {', '.join(k.__name__ for k in _STEPS)}")
    return make(step, columns)


def _imputed(step: Any, columns: Sequence[Column]) -> list[Column]:
    missing = step.missing_values
    if missing is not None and not (isinstance(missing, float) and math.isnan(missing)):
        raise Refused("its SimpleImputer takes another value than NaN for missing")
    if step.add_indicator:
        raise Refused("its SimpleImputer adds indicator columns")
    fills = list(step.statistics_)
    kept: list[Column] = []
    for column, fill in zip(columns, fills, strict=True):
        if isinstance(fill, float) and math.isnan(fill):
            if not step.keep_empty_features:
                continue  # a column that was empty in training is dropped
            raise Refused("its SimpleImputer keeps columns that were empty in training")
        if isinstance(fill, str):
            if column.encoder is not None or column.steps:
                raise Refused("it fills texts after they were encoded")
            kept.append(replace(column, encoder={"fill": fill}))
        else:
            kept.append(column.then(("fill", fill)))
    return kept


def _scaled(*operations: tuple[str, str]) -> Callable[[Any, Sequence[Column]], list[Column]]:
    """Steps with a number for each column, from the attributes of the scaler; None is no step."""

    def make(step: Any, columns: Sequence[Column]) -> list[Column]:
        made = list(columns)
        for operation, attribute in operations:
            numbers = getattr(step, attribute)
            if numbers is None:
                continue
            if operation in ("mul", "div") and not (np.asarray(numbers) > 0).all():
                raise Refused("a scaler turns the order of values around")
            made = [c.then((operation, n)) for c, n in zip(made, numbers, strict=True)]
        if getattr(step, "clip", False):
            low, high = step.feature_range
            made = [c.then(("clip_low", low), ("clip_high", high)) for c in made]
        return made

    return make


def _one_hot(step: Any, columns: Sequence[Column]) -> list[Column]:
    _check_encoder(step)
    made: list[Column] = []
    for place, (column, categories) in enumerate(zip(columns, step.categories_, strict=True)):
        dropped = None if step.drop_idx_ is None else step.drop_idx_[place]
        for index, category in enumerate(categories):
            if index == dropped:
                continue
            codes = [(other, float(other is category)) for other in categories]
            unseen = 0.0 if step.handle_unknown == "ignore" else None
            made.append(_encoded(column, codes, unseen, missing=unseen))
    return made


def _ordinal(step: Any, columns: Sequence[Column]) -> list[Column]:
    _check_encoder(step)
    known = step.handle_unknown == "use_encoded_value"
    unseen = float(step.unknown_value) if known else None
    missing = float(step.encoded_missing_value)
    return [
        _encoded(
            column,
            [
                (value, missing if _is_missing(value) else float(i))
                for i, value in enumerate(values)
            ],
            unseen,
            missing=unseen,
        )
        for column, values in zip(columns, step.categories_, strict=True)
    ]


def _check_encoder(step: Any) -> None:
    if getattr(step, "infrequent_categories_", None) or step.handle_unknown in (
        "infrequent_if_exist",
        "warn",
    ):
        raise Refused("its encoder puts rare categories together")


def _encoded(
    column: Column, codes: list[tuple[Any, float]], unseen: float | None, *, missing: float | None
) -> Column:
    fill = (column.encoder or {}).get("fill")
    if column.steps or (column.encoder is not None and fill is None):
        raise Refused("it encodes what was computed before; only inputs can be encoded")
    told = [(_category(value), code) for value, code in codes if not _is_missing(value)]
    if fill is not None:
        missing = dict(told).get(fill, unseen)
    for value, code in codes:
        if _is_missing(value):
            missing = code
    encoder = {"values": told, "unseen": unseen, "missing": missing}
    return Column(column.input, {k: _none_for_nan(v) for k, v in encoder.items()})


def _category(value: Any) -> str:
    """A category as the text that a category feature has."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)):
        raise Refused("it encodes numbers with fractions as categories")
    return str(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _none_for_nan(value: Any) -> Any:
    """NaN as a text of its own: null says that there is no answer."""
    return "nan" if isinstance(value, float) and math.isnan(value) else value


def _side_by_side(step: Any, columns: Sequence[Column]) -> list[Column]:
    names: list[str] = list(getattr(step, "feature_names_in_", ()))
    made: list[Column] = []
    for _, inner, chosen in step.transformers_:
        if isinstance(inner, str) and inner == "drop":
            continue
        made += _after(inner, [columns[place] for place in _places(chosen, names, len(columns))])
    return made


def _places(chosen: Any, names: list[str], count: int) -> list[int]:
    if isinstance(chosen, slice):
        if isinstance(chosen.start, str) or isinstance(chosen.stop, str):
            raise Refused("its ColumnTransformer chooses columns by a slice of names")
        return list(range(count))[chosen]
    listed = [chosen] if isinstance(chosen, (str, int)) else list(chosen)
    if listed and all(isinstance(item, (bool, np.bool_)) for item in listed):
        return [place for place, is_chosen in enumerate(listed) if is_chosen]
    return [names.index(item) if isinstance(item, str) else int(item) for item in listed]


def _is_sparse(step: Any) -> bool:
    if type(step) is ColumnTransformer:
        return bool(step.sparse_output_)
    return bool(getattr(step, "sparse_output", False))


_STEPS: dict[Any, Callable[[Any, Sequence[Column]], list[Column]]] = {
    SimpleImputer: _imputed,
    StandardScaler: _scaled(("sub", "mean_"), ("div", "scale_")),
    MinMaxScaler: _scaled(("mul", "scale_"), ("add", "min_")),
    MaxAbsScaler: _scaled(("div", "scale_")),
    RobustScaler: _scaled(("sub", "center_"), ("div", "scale_")),
    OneHotEncoder: _one_hot,
    OrdinalEncoder: _ordinal,
    ColumnTransformer: _side_by_side,
}

# --- classifiers ---------------------------------------------------------------------------


def _final(model: Any) -> Described:
    make = _FINALS.get(type(model))
    if make is None:
        known = ", ".join(kind.__name__ for kind in _FINALS)
        raise Refused(f"{type(model).__name__} is none of {known}")
    classes = getattr(model, "classes_", None)
    if classes is not None and len(classes) != 2:
        raise Refused(f"it knows {len(classes)} classes, not two")
    if hasattr(model, "n_jobs"):
        model.set_params(n_jobs=1)
    return make(model)


def _xgboost_classifier(model: Any) -> Described:
    if not math.isnan(model.missing):
        raise Refused("its XGBoost takes another value than NaN for missing")
    booster = model.get_booster()
    best = booster.attr("best_iteration")  # only there where it was stopped early
    return _xgboost(booster if best is None else booster[: int(best) + 1])


def _xgboost(booster: Any) -> Described:
    learner = orjson.loads(booster.save_config())["learner"]
    kinds = (learner["objective"]["name"], learner["gradient_booster"]["name"])
    if kinds != ("binary:logistic", "gbtree"):
        raise Refused("it is no gbtree with the objective binary:logistic")
    if "c" in (booster.feature_types or ()):
        raise Refused("it has categorical features of XGBoost's own; encode them before it")
    forest = XgboostBooster(booster).forest()
    trees = [
        {
            "left": tree.left.tolist(),
            "right": tree.right.tolist(),
            "feature": tree.feature.tolist(),
            "threshold": tree.threshold.astype(np.float64).tolist(),
            "missing": tree.default_left.astype(int).tolist(),
            "value": tree.value.astype(np.float64).tolist(),
            "cover": tree.cover.tolist(),
        }
        for tree in forest.trees
    ]
    listed = {
        "library": "xgboost",
        "rule": "lt32",
        "link": "logistic",
        "base": forest.base_margin,
        "count": forest.feature_count,
        "names": booster.feature_names,
        "trees": trees,
    }
    booster.set_param({"nthread": 1})
    return Described(listed, booster_score(booster))


def booster_score(booster: Any) -> Callable[[Any], Any]:
    """Probabilities by an XGBoost booster, whatever the columns are called."""

    def score(rows: Any) -> Any:
        names = booster.feature_names
        return booster.predict(xgb.DMatrix(rows.astype(np.float64), feature_names=names, nthread=1))

    return score


def _lightgbm(booster: Any) -> Described:
    text = booster.model_to_string(num_iteration=booster.best_iteration)
    head, *blocks = text.split("\nTree=")
    facts = _entries(head)
    if facts.get("objective") != "binary sigmoid:1" or "average_output" in head.split():
        raise Refused("it is no boosted LightGBM with the objective binary and sigmoid 1")
    listed = {
        "library": "lightgbm",
        "rule": "le64",
        "link": "logistic",
        "base": 0.0,
        "count": int(facts["max_feature_idx"]) + 1,
        "names": facts["feature_names"].split(),
        "trees": [_lightgbm_tree(_entries(block)) for block in blocks],
    }
    return Described(listed, lambda rows: booster.predict(rows.astype(np.float64), num_threads=1))


def _lightgbm_tree(entries: dict[str, str]) -> Json:
    def column(name: str) -> list[float]:
        return [float(word) for word in entries.get(name, "").split()]

    if int(entries.get("num_cat", "0")) or entries.get("is_linear", "0") != "0":
        raise Refused("it has categorical or linear trees of LightGBM's own")
    decisions = [int(number) for number in column("decision_type")]
    if any(decision & 4 for decision in decisions):
        raise Refused("it takes zero for missing")
    splits, leaves = column("threshold"), column("leaf_value")
    count = len(splits)

    def children(name: str) -> list[int]:
        nodes = [int(number) for number in column(name)]
        return [node if node >= 0 else count - 1 - node for node in nodes] + [-1] * len(leaves)

    zeros = [0.0] * len(leaves)
    return {
        "left": children("left_child"),
        "right": children("right_child"),
        "feature": [int(n) for n in column("split_feature")] + [0] * len(leaves),
        "threshold": _finite(splits + zeros),
        # where it saw no missing value in training, it takes one for 0
        "missing": [
            (int(bool(d & 2)) if d & 8 else int(t >= 0.0))
            for d, t in zip(decisions, splits, strict=True)
        ]
        + [0] * len(leaves),
        "value": [0.0] * count + leaves,
        "cover": column("internal_count") + (column("leaf_count") or [1.0] * len(leaves)),
    }


def _entries(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    return {name: value for name, is_entry, value in pairs if is_entry}


def _averaged(model: Any) -> Described:
    estimators = model.estimators_ if hasattr(model, "estimators_") else [model]

    def share(values: Any) -> Any:
        return values[:, 0, 1] / values[:, 0, :].sum(axis=1) / len(estimators)

    takes_missing = bool(model.__sklearn_tags__().input_tags.allow_nan)
    trees = [_sklearn_tree(e.tree_, share, takes_missing=takes_missing) for e in estimators]
    return _sklearn(model, trees, 0.0, "identity")


def _boosted(model: Any) -> Described:
    if model.loss != "log_loss":
        raise Refused(f"its loss is {model.loss}, not log_loss")
    width = model.n_features_in_
    base = float(model._raw_predict_init(np.zeros((1, width), dtype=np.float32))[0, 0])
    if model.init_ != "zero" and type(model.init_).__name__ != "DummyClassifier":
        raise Refused("it starts from another model")
    rate = model.learning_rate
    trees = [
        _sklearn_tree(e.tree_, lambda v: v[:, 0, 0] * rate, takes_missing=False)
        for e in model.estimators_[:, 0]
    ]
    return _sklearn(model, trees, base, "logistic")


def _sklearn(model: Any, trees: list[Json], base: float, link: str) -> Described:
    listed = {
        "library": "scikit-learn",
        "rule": "le32",
        "link": link,
        "base": base,
        "count": int(model.n_features_in_),
        "trees": trees,
    }
    return Described(listed, lambda rows: model.predict_proba(rows)[:, 1])


def _sklearn_tree(tree: Any, value: Callable[[Any], Any], *, takes_missing: bool) -> Json:
    missing = tree.missing_go_to_left if takes_missing else np.full(tree.node_count, -1)
    return {
        "left": tree.children_left.tolist(),
        "right": tree.children_right.tolist(),
        "feature": np.maximum(tree.feature, 0).tolist(),
        "threshold": _finite(tree.threshold),
        "missing": np.asarray(missing).astype(int).tolist(),
        "value": value(tree.value).tolist(),
        "cover": tree.weighted_n_node_samples.tolist(),
    }


def _histogram(model: Any) -> Described:
    if model.loss != "log_loss":
        raise Refused(f"its loss is {model.loss}, not log_loss")
    if model.is_categorical_ is not None and np.any(model.is_categorical_):
        raise Refused("it has categorical features of its own; encode them before it")
    trees = [_histogram_tree(stage[0].nodes) for stage in model._predictors]
    described = _sklearn(model, trees, float(model._baseline_prediction.item()), "logistic")
    return Described(described.listed | {"rule": "le64"}, described.score)


def _histogram_tree(nodes: Any) -> Json:
    is_leaf = nodes["is_leaf"].astype(bool)
    return {
        "left": np.where(is_leaf, -1, nodes["left"].astype(np.int64)).tolist(),
        "right": np.where(is_leaf, -1, nodes["right"].astype(np.int64)).tolist(),
        "feature": np.where(is_leaf, 0, nodes["feature_idx"].astype(np.int64)).tolist(),
        "threshold": _finite(nodes["num_threshold"]),
        "missing": nodes["missing_go_to_left"].astype(int).tolist(),
        "value": nodes["value"].tolist(),
        "cover": nodes["count"].astype(float).tolist(),
    }


def _finite(thresholds: Any) -> list[float]:
    """Thresholds for JSON, which has no infinite ones: those part only missing values off."""
    return np.nan_to_num(thresholds, posinf=1e308, neginf=-1e308).tolist()


_FINALS: dict[Any, Callable[[Any], Described]] = {
    xgb.XGBClassifier: _xgboost_classifier,
    xgb.Booster: _xgboost,
    lgb.LGBMClassifier: lambda model: _lightgbm(model.booster_),
    lgb.Booster: _lightgbm,
    RandomForestClassifier: _averaged,
    ExtraTreesClassifier: _averaged,
    DecisionTreeClassifier: _averaged,
    GradientBoostingClassifier: _boosted,
    HistGradientBoostingClassifier: _histogram,
}
