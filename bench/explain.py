"""Explanations, beside the ones that XGBoost computes itself.

Both give exact path-dependent SHAP values of the same trees for the same rows, on one thread;
what is compared is rows per second of processor time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.memory import Peak, watched
from tiebreak.core.explain import Tables
from tiebreak.training.fit import Booster, Family, Parameters, Rows, fit
from tiebreak.training.tables import build_tables

ROWS = 20_000
NATIVE_ROWS = 1_000
FEATURES = 40
TREES = 300
DEPTH = 6
ROUNDS = 3
TOLERANCE = 1e-5


def run() -> dict[str, Any]:
    """Rows explained per processor-second of both, and how far apart they are."""
    return compared("xgboost", "XGBoost pred_contribs")


def compared(family: Family, name: str) -> dict[str, Any]:
    """The figures of the product beside those of the family's own explanations, called `name`."""
    x, y = _data()
    booster = _trained(family, x, y)
    sample = x[:NATIVE_ROWS]
    with watched(os.getpid()) as other_peak:
        other, expected = _rate(lambda: booster.contributions(sample), NATIVE_ROWS, other_peak)
    with watched(os.getpid()) as peak:
        begun = time.process_time()
        tables = build_tables(booster.forest())
        build_seconds = time.process_time() - begun
        tables.explain(x[:1_000])  # compiles
        ours, found = _rate(lambda: tables.explain(x), ROWS, peak)
    difference = _difference(tables, found, expected)
    if difference > TOLERANCE:
        raise SystemExit(f"the explanations differ by {difference}")
    return {
        "tiebreak": {
            "rows": ROWS,
            "rows_per_cpu_second": round(ours, 1),
            "tables_mib": round(len(tables.dump()) / 2**20, 1),
            "tables_cpu_seconds": round(build_seconds, 2),
            "peak_memory_mib": peak.mib,
        },
        "alternative": {
            "name": name,
            "rows": NATIVE_ROWS,
            "rows_per_cpu_second": round(other, 1),
            "peak_memory_mib": other_peak.mib,
        },
        "ratio": round(ours / other, 2),
        "largest_difference": difference,
    }


def _data() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, FEATURES)).astype(np.float32)
    odds = x @ random.normal(size=FEATURES) * 0.3 + x[:, 0] * x[:, 1] - 1.0
    y = random.random(ROWS) < 1.0 / (1.0 + np.exp(-odds))
    x[random.random(x.shape) < 0.05] = np.nan
    return x, y.astype(np.float32)


def _trained(family: Family, x: NDArray[np.float32], y: NDArray[np.float32]) -> Booster:
    rows = Rows(x, y, np.ones(len(x)))
    parameters = Parameters(valid_from=datetime.now(UTC), rounds=TREES, max_depth=DEPTH)
    booster = fit(family, rows, rows, parameters, lambda _step, _share: None)
    if len(booster.forest().trees) != TREES:
        raise SystemExit("the training stopped early")
    return booster


def _rate(explain: Callable[[], NDArray[Any]], rows: int, peak: Peak) -> tuple[float, NDArray[Any]]:
    """Rows per processor-second, the median of some rounds, and what the last one gave."""
    rates: list[float] = []
    found = np.zeros(0)
    for _ in range(ROUNDS):
        begun = time.process_time()
        found = explain()
        rates.append(rows / (time.process_time() - begun))
        peak.look([os.getpid()])
    return float(np.median(rates)), found


def _difference(tables: Tables, found: NDArray[Any], expected: NDArray[Any]) -> float:
    contributions = np.abs(found[:NATIVE_ROWS] - expected[:, :-1]).max()
    return float(max(contributions, np.abs(tables.base_value - expected[:, -1]).max()))
