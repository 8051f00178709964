"""Training time and quality of the default search beside FLAML, on the same rows and cores.

Simulated `locate` tickets, cut in time as `tiebreak train` cuts them. The search has all families
and so many seconds, after which the models are fitted, calibrated, exported and proved; FLAML then
has as many seconds as all of this took, and the same rows to train and to choose by. Both are
judged once, on the latest fifth.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench import alternatives
from bench.memory import watched
from bench.stage import Stage, stage

SEARCH_SECONDS = 60.0
CORES = 2
PARTS = ("training", "tuning", "validation")


def run() -> dict[str, Any]:
    """Seconds and quality of both, and the ratio of their PR-AUCs."""
    staged = stage()
    with tempfile.TemporaryDirectory(prefix="tiebreak-bench-training-") as name:
        folder = Path(name)
        with watched(os.getpid()) as peak, ProcessPoolExecutor(1, get_context("spawn")) as other:
            ours = other.submit(_ours, staged, folder).result()
        rows = ours.pop("rows")
        theirs = alternatives.run(
            "bench.training_flaml", folder=name, seconds=ours["seconds"], cores=CORES
        )
        figures = _judged(folder)
    return {
        "search_seconds": SEARCH_SECONDS,
        "cores": CORES,
        "rows": rows,
        "tiebreak": {**ours, "peak_memory_mib": peak.mib},
        "alternative": {"name": "FLAML", **theirs, **figures},
        "ratio": round(ours["pr_auc"] / figures["pr_auc"], 3),
    }


def _ours(staged: Stage, folder: Path) -> dict[str, Any]:
    """Train, and leave the parts of the split in the folder; in a process of its own."""
    from bench import snapshots
    from tiebreak.fingerprint import engine_fingerprint
    from tiebreak.training.fit import Parameters
    from tiebreak.training.prepare import split_by_time
    from tiebreak.training.train import train
    from tiebreak.workflows.check import check_folder

    workflow, rules = check_folder(alternatives.ROOT / "workflows" / staged.workflow).sound()
    snapshot, valid_from = snapshots.read(staged, workflow, rules)
    parameters = Parameters(valid_from=valid_from, family="best", tune_seconds=SEARCH_SECONDS)
    split = split_by_time(snapshot, parameters)
    names = [feature.name for feature in snapshot.workflow.features]
    for part in PARTS:
        found = getattr(split, part)
        found.frame.select(names).with_columns(found.label.alias("label.")).write_parquet(
            folder / f"{part}.parquet"
        )
    begun = time.monotonic()
    result = train(snapshot, parameters, lambda _s, _x: None, fingerprint=engine_fingerprint().hash)
    seconds = time.monotonic() - begun
    return {
        "rows": result.manifest["rows"],
        "seconds": round(seconds, 1),
        "family": result.manifest["family"],
        "trials": result.manifest["parameters"]["trials"],
        **_told(result.metrics),
    }


def _judged(folder: Path) -> dict[str, float]:
    from tiebreak.training.evaluate import evaluate

    truth = pl.read_parquet(folder / "validation.parquet")["label."].to_numpy()
    scores = np.load(folder / "scores.npy")
    return _told(evaluate(scores, truth.astype(np.float32), np.ones(len(truth))))


def _told(metrics: Any) -> dict[str, float]:
    return {name: round(metrics[name], 4) for name in ("pr_auc", "auc", "brier")}
