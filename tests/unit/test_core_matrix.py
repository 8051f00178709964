"""Columns of any number types become the same matrix, alone and beside floats."""

from __future__ import annotations

import resource

import numpy as np
import polars as pl
import pytest

from tiebreak.core.matrix import FeatureSpec, feature_matrix

FRAME = pl.DataFrame(
    {
        "is_deep": [True, None, False],
        "owners": [1, None, 2**53 + 1],
        "feet": [1e300, None, -0.5],
        "is_gas": [True, False, True],
    }
)


@pytest.mark.parametrize(
    "names",
    [
        ("is_deep",),
        ("is_gas",),
        ("owners",),
        ("is_deep", "owners"),
        ("is_deep", "owners", "feet", "is_gas"),
        ("feet", "is_deep", "feet"),
        (),
    ],
    ids=" ".join,
)
def test_numbers_are_the_nearest_float32_and_null_is_nan(names: tuple[str, ...]) -> None:
    specs = [
        FeatureSpec(name=f"f{place}", kind="number", definition="", column=name)
        for place, name in enumerate(names)
    ]
    wanted = np.empty((3, len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        values = FRAME[name].cast(pl.Float64).to_numpy()
        wanted[:, place] = np.clip(values, -3.4028234663852886e38, 3.4028234663852886e38)
    for height in (3, 1, 0):
        found = feature_matrix(specs, FRAME.head(height))
        assert found.tobytes() == wanted[:height].tobytes()
        assert found.flags.c_contiguous


def test_a_batch_waits_for_no_other_thread() -> None:
    """A frame made into a matrix by Polars is, and each time the thread waits for its pool."""
    features = [FeatureSpec(name, "number", "{}") for name in FRAME.columns]
    feature_matrix(features, FRAME)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    for _ in range(200):
        feature_matrix(features, FRAME)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 20
