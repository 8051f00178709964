"""Writing a trained model as joblib and signature, for systems that still load such files."""

from __future__ import annotations

import hashlib
import hmac
import io
from collections.abc import Mapping
from typing import Any

import joblib
import numpy as np

from tiebreak.core.model import MANIFEST
from tiebreak.errors import InvalidInput

_XGBOOST, _LIGHTGBM = "model.ubj", "model.txt"


class NoNativeModel(InvalidInput):
    """The bundle holds no model in a library's own form, as imported ones do not."""

    code = "no_native_model"


def to_joblib(parts: Mapping[str, bytes]) -> bytes:
    """An XGBClassifier, or a LightGBM Booster; its scores are those before calibration.

    Its inputs are the features of the manifest, in order, categories as their codes. Raises
    NoNativeModel.
    """
    if MANIFEST not in parts or not {_XGBOOST, _LIGHTGBM} & parts.keys():
        raise NoNativeModel(
            hint="Only models trained here by XGBoost or LightGBM can; of one that was imported "
            "keep the file."
        )
    out = io.BytesIO()
    untyped: Any = joblib
    untyped.dump(_native(parts), out)
    return out.getvalue()


def signature_of(data: bytes, key: bytes) -> str:
    """What stands in the `.sig` file: HMAC-SHA256 in hexadecimal."""
    return hmac.digest(key, data, hashlib.sha256).hex()


def _native(parts: Mapping[str, bytes]) -> Any:
    if _XGBOOST in parts:
        import xgboost as xgb

        booster = xgb.Booster(model_file=bytearray(parts[_XGBOOST]))
        model: Any = xgb.XGBClassifier()
        model.load_model(booster.save_raw("ubj"))
        assert np.isnan(model.missing)
        return model
    from tiebreak.training.lightgbm_booster import lgb

    return lgb.Booster(model_str=parts[_LIGHTGBM].decode())
