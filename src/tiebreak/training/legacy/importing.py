"""Importing: a signed joblib file of another system becomes a signed bundle, and is on record."""

from __future__ import annotations

import asyncio
import hashlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import orjson
import polars as pl

from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core import model as parts_of
from tiebreak.core.model import Model
from tiebreak.core.workflow import Workflow
from tiebreak.errors import TiebreakError
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.training.dataset import Snapshot
from tiebreak.training.evaluate import Metrics, evaluate
from tiebreak.training.export import to_onnx
from tiebreak.training.legacy.converting import convert
from tiebreak.training.legacy.mapping import Entry, map_inputs
from tiebreak.training.legacy.proving import prove
from tiebreak.training.legacy.reading import WALL_SECONDS, CagedModel, verified
from tiebreak.training.snapshot import read_snapshot
from tiebreak.training.tables import build_tables

MOST_STORED_ROWS = 2_000  # that the proof takes; the figures take all
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "scikit-learn", "xgboost-cpu", "lightgbm")


@dataclass(frozen=True)
class LegacyFile:
    """The joblib file with its signature, and the key that it must have been signed with."""

    data: bytes
    signature: str | None
    key: bytes
    mapping: Sequence[str | Entry] | Mapping[str, str | Entry] | None = None


@dataclass(frozen=True)
class Converted:
    """The parts of a bundle, proved equal to the original."""

    parts: dict[str, bytes]
    manifest: dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """An imported model: its digest and manifest."""

    digest: str
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LegacyImporter:
    """Where imports are recorded, where bundles go, by which keys they are signed."""

    db: Database
    lane: Lane
    artifacts: ArtifactStore
    keys: BundleKeys
    entity_secret: bytes

    async def run(
        self, workflow: Workflow, file: LegacyFile, *, author: str, reason: str
    ) -> Imported:
        """Verify, open in the cage, convert, prove, sign, and store as the workflow's candidate.

        Raises what `convert_file` raises.
        """
        snapshot = await self._stored(workflow)
        done = await asyncio.to_thread(convert_file, workflow, file, snapshot)
        bundle = await asyncio.to_thread(make_bundle, done.parts, self.keys)
        digest = await asyncio.to_thread(self.artifacts.put_bundle, bundle)
        self.artifacts.set_alias(workflow.name, "risk_model_candidate", digest)
        origin = done.manifest["origin"]
        detail = {name: origin[name] for name in ("file_sha256", "shape")} | {"reason": reason}
        async with self.lane.unit() as unit:
            journal = entry(author, "model.imported", f"{workflow.name}/{digest}", detail)
            unit.add(tables.system_audit, [journal])
        return Imported(digest, done.manifest)

    async def _stored(self, workflow: Workflow) -> Snapshot | None:
        """Stored tickets with labels, None where there are none yet."""
        try:
            return await read_snapshot(
                self.db, workflow, known_by=datetime.now(UTC), entity_secret=self.entity_secret
            )
        except TiebreakError:
            return None


def convert_file(
    workflow: Workflow,
    file: LegacyFile,
    snapshot: Snapshot | None,
    *,
    seconds: float = WALL_SECONDS,
) -> Converted:
    """The bundle of a legacy file, proved on rows of the snapshot and on others.

    Raises LegacyUnsigned and LegacyAltered before a byte is parsed, then LegacyRefused,
    MappingUnfit, LegacyNotEqual and ExplanationTooLarge.
    """
    data = verified(file.data, file.signature, file.key)
    with CagedModel(data, seconds) as caged:
        told = caged.describe()
        inputs = map_inputs(told, file.mapping, workflow)
        made = convert(told, inputs, workflow)
        parts = {
            parts_of.ONNX: to_onnx(made.forest),
            parts_of.TABLES: build_tables(made.forest).dump(),
            parts_of.CALIBRATOR: made.calibrator.dump(),
        }
        features = {"features": [spec.listed() for spec in made.specs]}
        model = Model.load({**parts, parts_of.MANIFEST: _json(features)}, digest="")
        stored = None if snapshot is None else _newest(snapshot.frame)
        parity = prove(model, made, told, inputs, caged, stored)
    manifest = {
        "workflow": workflow.name,
        "workflow_version": workflow.version,
        "label": workflow.label.model_dump(mode="json") if workflow.label else None,
        "schema": [{"name": f.name, "type": f.type.value} for f in workflow.fields],
        **features,
        "origin": {
            "kind": "legacy joblib",
            "file_sha256": hashlib.sha256(data).hexdigest(),
            "shape": told.shape,
            "link": told.link,
            "inputs": {each.name: each.feature or None for each in inputs},
        },
        "data_hash": None if snapshot is None else snapshot.data_hash,
        "rows": {"validation": 0 if snapshot is None else snapshot.frame.height},
        "parameters": {},
        "family": told.library,
        "trees": len(made.forest.trees),
        "base_value": model.base_value,
        "metrics": None if snapshot is None else _metrics(model, snapshot),
        "parity": parity,
        "versions": {
            "tiebreak": version("tiebreak"),
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "fingerprint": engine_fingerprint().hash,
    }
    return Converted({**parts, parts_of.MANIFEST: _json(manifest)}, manifest)


def _newest(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.tail(MOST_STORED_ROWS)


def _metrics(model: Model, snapshot: Snapshot) -> Metrics:
    """Figures on all stored tickets with a label; the model may have been trained on them."""
    scores = model.scores(model.margins(model.matrix(snapshot.frame)))
    return evaluate(scores, snapshot.targets, snapshot.row_weights)


def _json(manifest: dict[str, Any]) -> bytes:
    return orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
