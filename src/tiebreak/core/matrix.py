"""Features as the model sees them: columns → float32 matrix.

Numbers become the nearest float32, booleans 0 and 1, and what is missing (null or NaN) NaN; a
number beyond float32's range becomes its end. Categories get codes of our own, fixed when the
model was trained: 0 missing, 1 unseen, 2 and up the known values. Texts get their score, see
`core.text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.bare import chosen
from tiebreak.core.text import TextScore
from tiebreak.core.workflow import FeatureKind
from tiebreak.errors import InvalidInput

MISSING, UNSEEN, FIRST_KNOWN = 0, 1, 2
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class FeatureColumnMissing(InvalidInput):
    """A feature that the model needs is not among the columns."""

    code = "feature_column_missing"


@dataclass(frozen=True)
class FeatureSpec:
    """One feature of a model.

    `definition` is the canonical JSON of the workflow's feature, so that a model is only ever
    served with features that mean what they meant in training. `categories` are the known
    values of a category in the order of their codes, `text` is what was learnt of a text.
    A model from elsewhere may read a workflow's feature (`column`) under another name, and have
    codes of its own (`encoding`: missing, unseen, then one a category; NaN is a missing value).
    """

    name: str
    kind: FeatureKind
    definition: str
    categories: tuple[str, ...] = ()
    text: TextScore | None = None
    column: str | None = None
    encoding: tuple[float, ...] | None = None

    @property
    def reads(self) -> str:
        """The feature of the workflow that it is computed from."""
        return self.column or self.name

    @cached_property
    def codes(self) -> dict[str | None, float]:
        """Each known value's code, and that of null."""
        if self.encoding is not None:
            return {
                None: self.encoding[0],
                **dict(zip(self.categories, self.encoding[2:], strict=True)),
            }
        known = {value: float(code) for code, value in enumerate(self.categories, FIRST_KNOWN)}
        return {None: float(MISSING), **known}

    @property
    def unseen(self) -> float:
        """The code of a value that is not known."""
        return float(UNSEEN) if self.encoding is None else self.encoding[1]

    def listed(self) -> dict[str, Any]:
        """What a manifest says of it; what was learnt of a text is a part of its own."""
        told: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "definition": self.definition,
            "categories": self.categories,
        }
        if self.column is not None:
            told["column"] = self.column
        if self.encoding is not None:  # JSON writes NaN as null
            told["encoding"] = self.encoding
        return told


def feature_matrix(features: Sequence[FeatureSpec], frame: pl.DataFrame) -> NDArray[np.float32]:
    """The features (n, f) of the rows of `frame`, C-ordered; FeatureColumnMissing."""
    present = set(frame.columns)
    absent = [spec.reads for spec in features if spec.reads not in present]
    if absent:
        raise FeatureColumnMissing(features=absent)
    values = np.empty((len(features), frame.height), dtype=np.float64)
    numbers = {place: spec.reads for place, spec in enumerate(features) if spec.kind == "number"}
    names = list(dict.fromkeys(numbers.values()))
    values[list(numbers)] = chosen(frame, names).T[[names.index(n) for n in numbers.values()]]
    for place, spec in enumerate(features):
        if spec.kind == "category":
            values[place] = _codes(spec, frame.get_column(spec.reads))
        elif spec.kind == "text":
            assert spec.text is not None
            values[place] = spec.text.scores(frame.get_column(spec.reads))
    out = np.empty((frame.height, len(features)), dtype=np.float32)
    np.clip(values.T, -_FLOAT32_MAX, _FLOAT32_MAX, out=out, casting="same_kind")
    return out


def _codes(spec: FeatureSpec, column: pl.Series) -> list[float]:
    codes = spec.codes
    values = column if column.dtype == pl.String else column.cast(pl.String)
    unseen = spec.unseen
    return [codes.get(value, unseen) for value in values.to_list()]
