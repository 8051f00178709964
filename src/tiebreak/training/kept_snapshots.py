"""Kept snapshots: Parquet beside a manifest, under the hash of what they hold.

The hash is taken over values, not over the file, so that it is the same whatever wrote the file.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import orjson
import polars as pl

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.core.workflow import Workflow
from tiebreak.errors import IntegrityFailure, InvalidInput
from tiebreak.training.dataset import TICKET_ID, Origin, Snapshot

FORMAT = 1
SLICE_ROWS = 100_000  # hashed at once, for the sake of memory
LABEL, KNOWN_AT, WEIGHT = "label.value", "label.known_at", "label.weight"


class SnapshotAltered(IntegrityFailure):
    """A kept snapshot does not hold what its hash says."""

    code = "snapshot_altered"


class SnapshotUnclear(InvalidInput):
    """Not exactly one snapshot begins with these digits."""

    code = "snapshot_unclear"


def dump(snapshot: Snapshot) -> tuple[bytes, bytes]:
    """The data and the manifest of a snapshot that was read from the store."""
    buffer = io.BytesIO()
    table_of(snapshot).write_parquet(buffer, compression="zstd")
    return buffer.getvalue(), _json(describe(snapshot))


def put(artifacts: ArtifactStore, data: bytes, manifest: bytes) -> None:
    """Stores what `dump` gave; a snapshot that is there stays as it is."""
    digest = hash_of(manifest)
    if not artifacts.has_snapshot(digest):
        artifacts.put_snapshot(digest, data, manifest)


def hash_of(manifest: bytes) -> str:
    """The hash under which the snapshot of this manifest is stored."""
    return str(orjson.loads(manifest)["hash"])


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """The manifest of a snapshot that was read from the store."""
    assert snapshot.origin is not None
    return {
        "format": FORMAT,
        "hash": snapshot.data_hash,
        "workflow": snapshot.workflow.name,
        "workflow_version": snapshot.workflow.version,
        "configuration": snapshot.workflow.model_dump(mode="json"),
        "code_version": version("tiebreak"),
        "rows": snapshot.frame.height,
        "positives": int(snapshot.label.sum()),
        **asdict(snapshot.origin),
    }


def load(artifacts: ArtifactStore, digest: str) -> Snapshot:
    """The kept snapshot of this hash. Raises `SnapshotMissing` and `SnapshotAltered`."""
    manifest = manifest_of(artifacts, digest)
    try:
        whole = pl.read_parquet(io.BytesIO(artifacts.read_snapshot(digest)))
        workflow = Workflow.model_validate(manifest["configuration"])
        found = content_hash(whole, workflow.version, manifest["rules_version"])
    except (ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise SnapshotAltered(hint=str(error), snapshot=digest) from error
    if found != digest or manifest["hash"] != digest:
        raise SnapshotAltered(hint="Remove it and train anew.", snapshot=digest)
    return Snapshot(
        workflow=workflow,
        frame=whole.drop(LABEL, KNOWN_AT, WEIGHT, strict=False),
        label=whole[LABEL],
        as_of=whole["as_of"],
        data_hash=digest,
        weights=whole[WEIGHT] if WEIGHT in whole.columns else None,
        known_at=whole[KNOWN_AT] if KNOWN_AT in whole.columns else None,
        origin=Origin(
            known_by=datetime.fromisoformat(manifest["known_by"]),
            **{k: manifest[k] for k in ("rules_version", "compared", "unlike_serving", "left_out")},
        ),
    )


def manifest_of(artifacts: ArtifactStore, digest: str) -> dict[str, Any]:
    """What was written of a kept snapshot; `SnapshotMissing`."""
    return orjson.loads(artifacts.read_snapshot_manifest(digest))


def resolve(artifacts: ArtifactStore, start: str) -> str:
    """The hash of the one kept snapshot that begins so; `SnapshotUnclear`."""
    found = [digest for digest in artifacts.list_snapshots() if digest.startswith(start)]
    if len(found) != 1:
        raise SnapshotUnclear(
            f"{len(found)} snapshots begin with {start!r}.",
            hint="`tiebreak snapshots list` names them.",
            snapshots=found,
        )
    return found[0]


def forget(artifacts: ArtifactStore, workflow: str, ticket_id: str) -> list[str]:
    """Removes every kept snapshot that holds this ticket, and gives their hashes."""
    return [
        digest
        for digest in artifacts.list_snapshots()
        if manifest_of(artifacts, digest)["workflow"] == workflow
        and remove_if_it_holds(artifacts, digest, [ticket_id])
    ]


def remove_if_it_holds(artifacts: ArtifactStore, digest: str, ticket_ids: Sequence[str]) -> bool:
    """Removes the kept snapshot of this hash where it holds any of these tickets."""
    data = io.BytesIO(artifacts.read_snapshot(digest))
    holds = pl.read_parquet(data, columns=[TICKET_ID])[TICKET_ID].is_in(ticket_ids).any()
    if holds:
        artifacts.delete_snapshot(digest)
    return holds


def table_of(snapshot: Snapshot) -> pl.DataFrame:
    """All of a snapshot as one table."""
    told = {LABEL: snapshot.label, KNOWN_AT: snapshot.known_at, WEIGHT: snapshot.weights}
    given = [column.alias(name) for name, column in told.items() if column is not None]
    return snapshot.frame.with_columns(snapshot.as_of.alias("as_of"), *given)


def content_hash(whole: pl.DataFrame, workflow_version: str, rules_version: str) -> str:
    """SHA-256 in hex over every value, in the order of rows, columns by name."""
    digest = hashlib.sha256(f"{FORMAT}\n{workflow_version}\n{rules_version}\n".encode())
    for name in sorted(whole.columns):
        digest.update(orjson.dumps([name, str(whole.schema[name]), whole.height]))
        for start in range(0, whole.height, SLICE_ROWS):
            for part in _bytes(whole[name].slice(start, SLICE_ROWS)):
                digest.update(part)
    return digest.hexdigest()


def _bytes(column: pl.Series) -> tuple[bytes, ...]:
    """A column's nulls and values as bytes; equal columns give equal bytes."""
    nulls = np.packbits(column.is_null().to_numpy()).tobytes()
    if column.dtype == pl.String:
        texts = column.fill_null("")
        lengths = texts.str.len_bytes().to_numpy().astype("<u8").tobytes()
        return nulls, lengths, "".join(texts.to_list()).encode()
    numbers = column.to_physical()
    if numbers.dtype.is_float():
        whole = numbers.fill_null(0.0).fill_nan(np.nan).to_numpy().astype("<f8")
    else:
        whole = numbers.cast(pl.Int64).fill_null(0).to_numpy().astype("<i8")
    return nulls, whole.tobytes()


def _json(manifest: Mapping[str, Any]) -> bytes:
    return orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"
