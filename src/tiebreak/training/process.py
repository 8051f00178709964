"""The parent's side of the process that trains: how far it is, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tiebreak.bundles.format import unpack
from tiebreak.core import model as parts_of
from tiebreak.core.workflow import Workflow
from tiebreak.errors import InvalidInput
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.settings import Settings
from tiebreak.supervised.failures import refusal
from tiebreak.supervised.process import ENVIRONMENT, ProcessEnded, Supervised
from tiebreak.training import handover
from tiebreak.training.ends import RunCrashed, RunUnfit, error_of, out_of_memory
from tiebreak.training.requests import Request

MODULE = "tiebreak.training.child"
READ_ONLY = "default_transaction_read_only=on"


@dataclass(slots=True)
class Told:
    """What a run has told so far: its step, the share of it, and once known what it was made of."""

    step: str = "start"
    share: float = 0.0
    data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The unsigned parts of a bundle, their manifest, and what is kept beside the bundle."""

    parts: Mapping[str, bytes]
    manifest: dict[str, Any] = field(repr=False)
    beside: Mapping[str, bytes]


def job(request: Request, workflow: Workflow, settings: Settings, entity_key: bytes) -> bytes:
    """What the process is given: no more than it needs to read and to train."""
    limits = settings.training
    return orjson.dumps(
        {
            "request": request.dump(),
            "workflow": workflow.model_dump_json(),
            "database_url": _reading_address(settings),
            "entity_key": entity_key.hex(),
            "memory_bytes": limits.memory_bytes,
            "cpu_seconds": limits.cpu_seconds,
        }
    )


def environment(data_dir: Path) -> dict[str, str]:
    """The process's whole environment."""
    return {
        **ENVIRONMENT,
        "NUMBA_CACHE_DIR": str(data_dir.absolute() / "cache" / "numba"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


async def trained(child: Supervised, told: Told) -> Trained:
    """What the process hands over, while `told` follows how far it is.

    Raises what training refuses, RunOutOfMemory, RunTimedOut, RunCrashed.
    """
    try:
        async for line in child.lines():
            if "step" in line:
                told.step, told.share = line["step"], line["share"]
            elif "data" in line:
                told.data = line["data"]
            elif "bytes" in line:
                parts, beside = handover.unwrap(unpack(await child.payload(line)))
                return Trained(parts, orjson.loads(parts[parts_of.MANIFEST]), beside)
            else:
                raise _failure(line)
    except ProcessEnded as ended:
        raise error_of(ended) from None
    raise RunCrashed("The process ended without a word.")


def check(trained: Trained, request: Request, told: Told) -> None:
    """Raises RunUnfit where the manifest is not of the run that was asked for."""
    assert told.data is not None
    wanted = {
        "workflow": request.workflow,
        "workflow_version": request.workflow_version,
        "seed": request.parameters.seed,
        "data_hash": told.data["data_hash"],
        "fingerprint": engine_fingerprint().hash,
    }
    wrong = [name for name, value in wanted.items() if trained.manifest.get(name) != value]
    missing = {parts_of.ONNX, parts_of.TABLES, parts_of.CALIBRATOR} - trained.parts.keys()
    missing |= {handover.DATA, handover.MANIFEST} - trained.beside.keys()
    if not missing and handover.snapshot_hash(trained.beside) != wanted["data_hash"]:
        wrong.append("snapshot")
    if wrong or missing:
        raise RunUnfit(fields=wrong, parts=sorted(missing))


def _failure(line: Mapping[str, Any]) -> Exception:
    if "refused" in line:
        return refusal(line["refused"])
    if "out_of_memory" in line:
        return out_of_memory()
    crashed = line["crashed"]
    return RunCrashed(
        f"Training met an error that nobody foresaw: {crashed['kind']}.", places=crashed["places"]
    )


def _reading_address(settings: Settings) -> str:
    address = settings.database.readonly_url or settings.database.url
    if address is None:
        raise InvalidInput(
            "No database is configured.",
            hint="Set DATABASE_URL, or start the embedded one with `tiebreak up`.",
        )
    url = address.get_secret_value()
    return f"{url}{'&' if '?' in url else '?'}{READ_ONLY}"
