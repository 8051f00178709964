"""The full path of a decision over HTTP beside bare FastAPI and XGBoost `predict` with no store.

Ours: authentication, validation, admission with history, 30 rules, 300 trees of depth 6, exact
SHAP, COMMIT before the answer. Both serve with as many processes, are loaded by the same client
in a process of its own, and take turns on the same machine. Last, in turns as well, both get half
of what ours does at 64 connections, at random moments, as tickets come; the time since its moment
is a ticket's latency. Memory is not watched then: a look takes 25 ms every 2 s, and one ticket in a
hundred meets one. Figures are medians over rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load import Load
from bench.load import run as send
from bench.memory import watched
from bench.stack import environment, tiebreak, up
from bench.stage import Stage, stage
from tiebreak.embedded.state import free_port

CONNECTIONS = (16, 64)
GOAL_AT = 64
SECONDS = 10.0
ROUNDS = 3
FIGURES = ("requests_per_second", "p50_ms", "p99_ms")


def run() -> dict[str, Any]:
    """Requests a second and latencies of both, and the ratio of ours to the bare one."""
    staged = stage()
    workers = len(os.sched_getaffinity(0))
    with up(staged.data_dir, workers) as ours, bare(staged, workers) as (bare_port, bare_pid):
        key = tiebreak(
            staged.data_dir, workers, "keys", "create", "--person", "bench", "--role", "service"
        )["key"]
        headers = {"Authorization": f"Bearer {key}"}
        path = f"/v1/workflows/{staged.workflow}/decisions"
        with watched(ours.pid) as our_peak, watched(bare_pid) as bare_peak:
            rounds = [
                (
                    _load(ours.port, path, staged, connections, f"r{number}", headers),
                    _load(bare_port, "/predict", staged, connections, f"r{number}", {}),
                )
                for number in range(ROUNDS)
                for connections in CONNECTIONS
            ]
        mine, bares = _merged([a for a, _ in rounds]), _merged([b for _, b in rounds])
        half = mine[str(GOAL_AT)]["requests_per_second"] / 2
        halves = [
            (
                _load(ours.port, path, staged, GOAL_AT, f"half{number}", headers, half),
                _load(bare_port, "/predict", staged, GOAL_AT, f"half{number}", {}, half),
            )
            for number in range(ROUNDS)
        ]
        my_half, bare_half = (_medians(runs) for runs in zip(*halves, strict=True))
    ratios = {c: _ratio(mine[str(c)], bares[str(c)]) for c in CONNECTIONS}
    return {
        "workers": workers,
        "policy": staged.policy,
        "tiebreak": {**mine, "half_load": my_half, "peak_memory_mib": our_peak.mib},
        "alternative": {
            "name": "FastAPI + XGBoost predict, no store",
            **bares,
            "half_load": bare_half,
            "peak_memory_mib": bare_peak.mib,
        },
        "ratio": ratios[GOAL_AT],
        "ratios": {str(connections): ratio for connections, ratio in ratios.items()},
    }


@contextmanager
def bare(staged: Stage, workers: int) -> Generator[tuple[int, int]]:
    """The alternative's server; its port and pid."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "bench.bare:app", "--port", str(port)),
            *("--workers", str(workers), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning"),
        ],
        cwd=Path(__file__).parent.parent,
        env=environment(staged.data_dir, workers)
        | {
            "BENCH_MODEL": str(staged.native_model),
            "BENCH_FEATURES": json.dumps(staged.features),
            "OMP_NUM_THREADS": "1",
        },
    )
    try:
        _wait(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _load(
    port: int,
    path: str,
    staged: Stage,
    connections: int,
    name: str,
    headers: dict[str, str],
    requests_per_second: float = 0.0,
) -> dict[str, Any]:
    load = Load(
        port=port,
        path=path,
        fields_file=str(staged.fields_file),
        connections=connections,
        seconds=SECONDS,
        id_prefix=f"{name}-{connections}-{time.time_ns()}",
        headers=headers,
        requests_per_second=requests_per_second,
    )
    found = send(load)
    if found["failed"]:
        raise RuntimeError(
            f"{found['failed']} requests failed; the first: {found['first_failure']}"
        )
    return found


def _merged(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The medians over rounds, by number of connections."""
    return {
        str(connections): _medians([run for run in runs if run["connections"] == connections])
        for connections in CONNECTIONS
    }


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in FIGURES}


def _ratio(mine: dict[str, float], other: dict[str, float]) -> float:
    return round(mine["requests_per_second"] / other["requests_per_second"], 3)


def _wait(port: int, seconds: float = 60) -> None:
    """Wait until the server answers anything at all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=5)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the alternative's server does not answer")
