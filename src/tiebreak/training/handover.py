"""What training hands over: the parts of a bundle, and beside them its data set and its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import orjson

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.training import kept_snapshots
from tiebreak.training.dataset import Snapshot

if TYPE_CHECKING:
    from tiebreak.training.train import TrainingResult  # who stores trains nothing

_BESIDE = "beside/"  # no part of a bundle
DATA, MANIFEST, REPORT = "data.parquet", "snapshot.json", "report.json"


def wrap(snapshot: Snapshot, result: TrainingResult) -> dict[str, bytes]:
    """All of it by name."""
    data, manifest = kept_snapshots.dump(snapshot)
    beside = {DATA: data, MANIFEST: manifest}
    if result.report is not None:
        beside[REPORT] = orjson.dumps(result.report, option=orjson.OPT_SORT_KEYS)
    return {**result.parts, **{f"{_BESIDE}{name}": part for name, part in beside.items()}}


def unwrap(handed: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The parts of the bundle, and what stands beside it."""
    bundle = {name: part for name, part in handed.items() if not name.startswith(_BESIDE)}
    rest = {name: part for name, part in handed.items() if name.startswith(_BESIDE)}
    return bundle, {name.removeprefix(_BESIDE): part for name, part in rest.items()}


def snapshot_hash(beside: Mapping[str, bytes]) -> str:
    """Under which hash the snapshot asks to be stored."""
    return kept_snapshots.hash_of(beside[MANIFEST])


def store(artifacts: ArtifactStore, digest: str, beside: Mapping[str, bytes]) -> None:
    """Stores what stands beside the bundle of this digest; a snapshot that is there stays."""
    kept_snapshots.put(artifacts, beside[DATA], beside[MANIFEST])
    if REPORT in beside:
        artifacts.put_report(digest, beside[REPORT])
