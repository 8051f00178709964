"""Seconds from `tiebreak up` to ready, cold and warm, beside bare FastAPI + XGBoost.

Cold is an empty folder: database, keys and schema are made. Warm is the next start of a folder
with a policy in production, until the policy decides.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.memory import watched
from bench.online import bare
from bench.stack import up
from bench.stage import stage

REPEATS = 3


def run() -> dict[str, Any]:
    """The seconds of both, and the ratio of the bare server's to our warm start's."""
    workers = len(os.sched_getaffinity(0))
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-bench-start-"))
    try:
        with up(folder / "data", workers) as running:
            cold = running.seconds
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    staged = stage()
    with up(staged.data_dir, workers):
        pass  # the first start with a policy compiles its kernels
    warm: list[float] = []
    for _ in range(REPEATS):
        with up(staged.data_dir, workers) as running, watched(running.pid) as peak:
            warm.append(running.seconds)
            if running.status != "ready":
                raise RuntimeError(f"it started {running.status}")
    alternative: list[float] = []
    for _ in range(REPEATS):
        begun = time.monotonic()
        with bare(staged, workers) as (_, pid), watched(pid) as bare_peak:
            alternative.append(round(time.monotonic() - begun, 2))
    return {
        "workers": workers,
        "tiebreak": {
            "cold_seconds": cold,
            "warm_seconds": min(warm),
            "peak_memory_mib": peak.mib,
        },
        "alternative": {
            "name": "FastAPI + XGBoost predict, no store",
            "warm_seconds": min(alternative),
            "peak_memory_mib": bare_peak.mib,
        },
        "ratio": round(min(alternative) / min(warm), 3),
    }
