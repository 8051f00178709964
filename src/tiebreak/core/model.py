"""A served model: features → margin, calibrated score, explanation.

Margins come from ONNX Runtime, explanations from tables; both were proved equal to the trained
model when it was exported. Nothing here is executable content: parts are data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import nan
from typing import Any, cast

import numpy as np
import onnxruntime
import orjson
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.calibration import Calibrator
from tiebreak.core.explain import Tables
from tiebreak.core.matrix import FeatureSpec, feature_matrix
from tiebreak.core.text import TextScore
from tiebreak.core.workflow import Cuts
from tiebreak.errors import IntegrityFailure

ort: Any = onnxruntime  # it comes without types

MANIFEST, ONNX = "manifest.json", "model.onnx"
TABLES, CALIBRATOR = "explanation.tables", "calibrator.json"
INPUT, OUTPUT = "features", "margin"


class ModelMalformed(IntegrityFailure):
    """The parts of the model do not fit together."""

    code = "model_malformed"


@dataclass(frozen=True, eq=False)
class Model:
    """Everything that serving needs of a model; immutable, safe to share between threads."""

    digest: str
    features: tuple[FeatureSpec, ...]
    manifest: Mapping[str, Any]
    calibrator: Calibrator
    tables: Tables
    session: Any  # onnxruntime.InferenceSession

    @classmethod
    def load(cls, parts: Mapping[str, bytes], digest: str) -> Model:
        """The model in the (already verified) parts of a bundle; ModelMalformed."""
        try:
            manifest: dict[str, Any] = orjson.loads(parts[MANIFEST])
            features = tuple(_feature(spec, parts) for spec in manifest["features"])
            tables = Tables.load(parts[TABLES])
            calibrator = Calibrator.load(parts[CALIBRATOR])
            session = open_session(parts[ONNX])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ModelMalformed(hint=str(error)) from error
        if tables.feature_count != len(features) or session.get_inputs()[0].shape[1] != len(
            features
        ):
            raise ModelMalformed
        return cls(digest, features, manifest, calibrator, tables, session)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features, in their order."""
        return tuple(feature.name for feature in self.features)

    @property
    def base_value(self) -> float:
        """What the contributions of a row are added to; in the unit of the margin."""
        return self.tables.base_value

    def matrix(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """The model's features (n, f) from columns by name; see `core.matrix`."""
        return feature_matrix(self.features, frame)

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raw margins (n,) of the rows of x (n, f); the bits do not depend on the batch."""
        if not len(x):
            return np.zeros(0, dtype=np.float32)
        (result,) = self.session.run([OUTPUT], {INPUT: x})
        return cast(NDArray[np.float32], result).reshape(-1)

    def scores(self, margins: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities (n,) of margins (n,), never falling with the margin."""
        return self.calibrator.scores(margins)

    def margin_cuts(self, cuts: Cuts) -> tuple[float, float, float]:
        """Probability cuts as margins: a margin reaches one where its score reaches the other.

        -inf where every margin does, inf where none does.
        """
        return self.calibrator.margin_cuts(cuts)

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values (n, f) of the rows of x (n, f); with `base_value` they add up to margins."""
        return self.tables.explain(x)

    def warm(self) -> None:
        """Compiles and initialises everything, so that the first ticket is not slow."""
        for spec in self.features:
            if spec.text is not None:
                spec.text.scores(pl.Series(["a text"]))
        for rows in (1, 64):
            x = np.full((rows, len(self.features)), np.nan, dtype=np.float32)
            self.scores(self.margins(x))
            self.contributions(x)


def open_session(onnx: bytes) -> Any:
    """A session that runs on the caller's thread alone: more threads change the bits."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def text_part(feature: str) -> str:
    """What the part of a bundle is called that holds what was learnt of a text feature."""
    return f"text.{feature}.table"


def _feature(spec: Mapping[str, Any], parts: Mapping[str, bytes]) -> FeatureSpec:
    is_text = spec["kind"] == "text"
    return FeatureSpec(
        name=spec["name"],
        kind=spec["kind"],
        definition=spec["definition"],
        categories=tuple(spec["categories"]),
        text=TextScore.load(parts[text_part(spec["name"])]) if is_text else None,
        column=spec.get("column"),
        encoding=_encoding(spec.get("encoding")),
    )


def _encoding(codes: list[float | None] | None) -> tuple[float, ...] | None:
    return None if codes is None else tuple(nan if code is None else code for code in codes)
