"""Telling MLflow of a run, in a process of its own: MLflow may be slow, away or wrong.

What it is told is a copy for people who compare runs there; the record is `ml_training_runs`.
Whatever happens, the run goes on, and its record says what became of the telling.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog

from tiebreak.core.model import MANIFEST
from tiebreak.settings import Settings
from tiebreak.supervised.process import ENVIRONMENT, ProcessEnded, supervised
from tiebreak.training.handover import REPORT
from tiebreak.training.process import Trained
from tiebreak.training.turns import Turn

MODULE = "tiebreak.training.tracking_child"
PACKAGE = "mlflow"

log = structlog.get_logger("tiebreak.training")


@dataclass(frozen=True, slots=True)
class Tracked:
    """What became of telling MLflow; `detail` says why not, or the id of the run there."""

    status: Literal["tracked", "not_tracked", "failed"]
    detail: str


def is_installed() -> bool:
    """Whether the extra `mlflow` is there."""
    return find_spec(PACKAGE) is not None


async def track(settings: Settings, turn: Turn, trained: Trained, digest: str) -> Tracked:
    """Tell MLflow of a run that made a bundle; never raises because of MLflow."""
    if not is_installed():
        return Tracked("not_tracked", "The extra `mlflow` is not installed.")
    address = settings.mlflow.tracking_uri
    if address is None:
        return Tracked("not_tracked", "TIEBREAK_MLFLOW__TRACKING_URI is not set.")
    uri = address.get_secret_value()
    job = orjson.dumps(
        {
            "tracking_uri": uri,
            "artifacts": None if uri.startswith("http") else _folder(settings, turn.workflow),
            "experiment": f"tiebreak/{turn.workflow}",
            "run_name": digest[:12],
            "started_ms": int((turn.started_at or turn.asked_at).timestamp() * 1000),
            "tags": _tags(turn, trained.manifest, digest),
            "parameters": trained.manifest["parameters"],
            "metrics": _numbers(trained.manifest["metrics"]),
            "texts": _texts(trained),
        }
    )
    try:
        async with (
            asyncio.timeout(settings.mlflow.timeout_seconds),
            supervised(MODULE, job, _environment(settings)) as child,
        ):
            told = [line async for line in child.lines()]
    except TimeoutError:
        return _failed(turn, f"It did not answer in {settings.mlflow.timeout_seconds:g} seconds.")
    except ProcessEnded as ended:
        return _failed(turn, ended.message)
    if "failed" in told[-1]:
        return _failed(turn, f"It met {told[-1]['failed']}.")
    return Tracked("tracked", told[-1]["run_id"])


def _failed(turn: Turn, detail: str) -> Tracked:
    log.warning("run not tracked in MLflow", run_id=str(turn.run_id), detail=detail)
    return Tracked("failed", detail)


def _folder(settings: Settings, workflow: str) -> str:
    folder: Path = settings.artifacts_dir.absolute() / "mlflow" / workflow
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _tags(turn: Turn, manifest: Mapping[str, Any], digest: str) -> dict[str, str]:
    kept = ("workflow", "workflow_version", "data_hash", "seed", "family", "fingerprint")
    return {
        "tiebreak.run_id": str(turn.run_id),
        "tiebreak.bundle_digest": digest,
        **{f"tiebreak.{name}": str(manifest[name]) for name in kept},
    }


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _texts(trained: Trained) -> dict[str, str]:
    texts = {MANIFEST: trained.parts[MANIFEST].decode()}
    if REPORT in trained.beside:
        texts[REPORT] = trained.beside[REPORT].decode()
    return texts


def _environment(settings: Settings) -> dict[str, str]:
    return {
        **ENVIRONMENT,
        "HOME": str(settings.data_dir.absolute()),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "GIT_PYTHON_REFRESH": "quiet",
    }
