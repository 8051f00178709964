"""Models as another system has them: trained, dumped by joblib, signed."""

from __future__ import annotations

import hashlib
import hmac
import io
from typing import Any

import joblib
import lightgbm as lgb
import numpy as np
import polars as pl
import xgboost as xgb
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)
from sklearn.tree import DecisionTreeClassifier
from tests.sample_models import snapshot

from tiebreak.training.legacy.importing import LegacyFile

KEY = bytes(range(40))
NUMBERS, CATEGORIES = ["depth_m", "member_count", "urgent"], ["dig_method", "town"]
SNAPSHOT = snapshot(1_200, seed=3)


def signed(model: Any, mapping: Any = None, compress: int = 0) -> LegacyFile:
    """The model's file with a true signature."""
    data = io.BytesIO()
    joblib.dump(model, data, compress=compress)
    return of_bytes(data.getvalue(), mapping)


def of_bytes(data: bytes, mapping: Any = None) -> LegacyFile:
    """Any bytes with a true signature."""
    signature = hmac.new(KEY, data, hashlib.sha256).hexdigest()
    return LegacyFile(data, signature, KEY, mapping)


def numbers(*, holes: bool = True) -> Any:
    """The number features of the sample workflow (n, 3), float64."""
    x = SNAPSHOT.frame.select(pl.col(n).cast(pl.Float64) for n in NUMBERS).to_numpy()
    return x if holes else np.nan_to_num(x, nan=-1.0)


def mixed() -> Any:
    """Number and category features (n, 5), objects, missing values NaN."""
    frame = SNAPSHOT.frame
    out = np.empty((frame.height, 5), dtype=object)
    out[:, :3] = numbers()
    for place, name in enumerate(CATEGORIES, 3):
        out[:, place] = [np.nan if value is None else value for value in frame[name].to_list()]
    return out


def labels() -> Any:
    return SNAPSHOT.label.to_numpy().astype(int)


def by_columns(final: Any, categories: Any, *, scale: bool = False) -> Pipeline:
    """A pipeline that treats numbers and categories apart."""
    steps = [SimpleImputer(strategy="median"), *([StandardScaler()] if scale else [])]
    return Pipeline(
        [
            (
                "columns",
                ColumnTransformer(
                    [("n", make_pipeline(*steps), [0, 1, 2]), ("c", categories, [3, 4])]
                ),
            ),
            ("model", final),
        ]
    )


def _one_hot(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(handle_unknown="ignore", sparse_output=False, **options)


BARE = {
    "xgboost": xgb.XGBClassifier(n_estimators=12, max_depth=4),
    "xgboost, several trees a round": xgb.XGBClassifier(n_estimators=4, num_parallel_tree=3),
    "lightgbm": lgb.LGBMClassifier(n_estimators=12, max_depth=5, verbosity=-1),
    "histogram": HistGradientBoostingClassifier(max_iter=12, max_depth=5),
    "tree": DecisionTreeClassifier(max_depth=5),
    "forest with missing values": RandomForestClassifier(8, max_depth=5, n_jobs=-1),
}
PIPELINES = {
    "imputed forest": make_pipeline(
        SimpleImputer(), RandomForestClassifier(8, max_depth=6, class_weight="balanced")
    ),
    "imputed boosting": make_pipeline(
        SimpleImputer(strategy="median"),
        GradientBoostingClassifier(n_estimators=15, max_depth=3),
    ),
    "scaled extra trees": make_pipeline(
        SimpleImputer(strategy="constant", fill_value=-3.0),
        StandardScaler(),
        ExtraTreesClassifier(8, max_depth=6),
    ),
    "scaled xgboost": make_pipeline(MinMaxScaler(clip=True), xgb.XGBClassifier(n_estimators=9)),
    "scaled lightgbm": make_pipeline(
        RobustScaler(), lgb.LGBMClassifier(n_estimators=9, max_depth=5, verbosity=-1)
    ),
    "scaled histogram": make_pipeline(
        MaxAbsScaler(), "passthrough", HistGradientBoostingClassifier(max_iter=9, max_depth=5)
    ),
}
MIXED = {
    "one-hot forest": by_columns(RandomForestClassifier(10, max_depth=6), _one_hot()),
    "imputed one-hot boosting": by_columns(
        GradientBoostingClassifier(n_estimators=12),
        make_pipeline(SimpleImputer(strategy="most_frequent"), _one_hot()),
        scale=True,
    ),
    "one-hot xgboost": by_columns(xgb.XGBClassifier(n_estimators=9), _one_hot(drop="first")),
    "ordinal lightgbm": by_columns(
        lgb.LGBMClassifier(n_estimators=9, max_depth=6, verbosity=-1),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    ),
    "ordinal histogram": by_columns(
        HistGradientBoostingClassifier(max_iter=9, max_depth=6),
        OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2
        ),
        scale=True,
    ),
}
