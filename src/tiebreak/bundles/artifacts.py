"""The artifact folder: bundles by digest, aliases, signed checkpoints, snapshots, reports.

    bundles/<digest>.bundle
    aliases/<workflow>/risk_model_latest, risk_model_candidate
    checkpoints/<name>
    snapshots/<hash>.parquet, <hash>.json
    reports/<digest>.json

Files appear whole or not at all. An alias is for people and tools; what may be loaded is named
by the release record.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Literal

from tiebreak.bundles.format import digest_of
from tiebreak.bundles.signing import HEADER_BYTES, MAGIC, BundleUnsigned
from tiebreak.errors import Conflict, InvalidInput, NotFound

Alias = Literal["risk_model_latest", "risk_model_candidate"]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class BundleMissing(NotFound):
    """The artifact folder holds no bundle of this digest."""

    code = "bundle_missing"


class CheckpointMissing(NotFound):
    """The artifact folder holds no checkpoint of this name."""

    code = "checkpoint_missing"


class CheckpointExists(Conflict):
    """A checkpoint of this name exists with other content."""

    code = "checkpoint_exists"


class SnapshotMissing(NotFound):
    """The artifact folder holds no data set snapshot of this hash."""

    code = "snapshot_missing"


class ReportMissing(NotFound):
    """The artifact folder holds no training report of this model."""

    code = "report_missing"


class ArtifactNameUnfit(InvalidInput):
    """This is not a name that an artifact can have."""

    code = "artifact_name_unfit"


class ArtifactStore:
    """The artifacts under one folder, which is made where it does not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_bundle(self, data: bytes) -> str:
        """Stores a signed bundle under the digest of its payload, which is returned."""
        if len(data) < HEADER_BYTES or not data.startswith(MAGIC):
            raise BundleUnsigned
        digest = digest_of(data[HEADER_BYTES:])
        write_whole(self._bundle(digest), data)
        return digest

    def read_bundle(self, digest: str) -> bytes:
        """The bundle's bytes, unverified: give them to `open_bundle`; BundleMissing."""
        try:
            return self._bundle(digest).read_bytes()
        except FileNotFoundError as error:
            raise BundleMissing(digest=digest) from error

    def has_bundle(self, digest: str) -> bool:
        """Whether a bundle of this digest is here."""
        return self._bundle(digest).is_file()

    def list_bundles(self) -> tuple[str, ...]:
        """Digests of all bundles, sorted."""
        return tuple(sorted(path.stem for path in self._root.glob("bundles/*.bundle")))

    def set_alias(self, workflow: str, alias: Alias, digest: str) -> None:
        """Lets the alias name a bundle that is here; BundleMissing."""
        if not self.has_bundle(digest):
            raise BundleMissing(digest=digest)
        write_whole(self._alias(workflow, alias), f"{digest}\n".encode())

    def clear_alias(self, workflow: str, alias: Alias) -> None:
        """Lets the alias name nothing."""
        self._alias(workflow, alias).unlink(missing_ok=True)

    def read_alias(self, workflow: str, alias: Alias) -> str | None:
        """The digest that the alias names, None where it names nothing."""
        try:
            return self._alias(workflow, alias).read_text().strip()
        except FileNotFoundError:
            return None

    def put_checkpoint(self, name: str, data: bytes) -> None:
        """Stores a checkpoint for good; CheckpointExists where it has other content."""
        path = self._checkpoint(name)
        if not _write_new(path, data) and path.read_bytes() != data:
            raise CheckpointExists(name=name)

    def read_checkpoint(self, name: str) -> bytes:
        """The checkpoint's bytes; CheckpointMissing."""
        try:
            return self._checkpoint(name).read_bytes()
        except FileNotFoundError as error:
            raise CheckpointMissing(name=name) from error

    def list_checkpoints(self) -> tuple[str, ...]:
        """Names of all checkpoints, sorted."""
        paths = self._root.glob("checkpoints/*")
        return tuple(sorted(path.name for path in paths if _NAME.fullmatch(path.name)))

    def put_snapshot(self, digest: str, data: bytes, manifest: bytes) -> None:
        """Stores a data set snapshot; it is there while its data is, and then has its manifest."""
        write_whole(self._snapshot(digest, "json"), manifest)
        write_whole(self._snapshot(digest, "parquet"), data)

    def read_snapshot(self, digest: str) -> bytes:
        """The snapshot's data; SnapshotMissing."""
        return self._snapshot_part(digest, "parquet")

    def read_snapshot_manifest(self, digest: str) -> bytes:
        """The snapshot's manifest; SnapshotMissing."""
        return self._snapshot_part(digest, "json")

    def has_snapshot(self, digest: str) -> bool:
        """Whether a snapshot of this hash is here."""
        return self._snapshot(digest, "parquet").is_file()

    def list_snapshots(self) -> tuple[str, ...]:
        """Hashes of all snapshots, sorted."""
        return tuple(sorted(path.stem for path in self._root.glob("snapshots/*.parquet")))

    def delete_snapshot(self, digest: str) -> None:
        """Removes a snapshot, its data first."""
        for kind in ("parquet", "json"):
            self._snapshot(digest, kind).unlink(missing_ok=True)

    def put_report(self, digest: str, data: bytes) -> None:
        """Stores the training report of a bundle."""
        write_whole(self._report(digest), data)

    def read_report(self, digest: str) -> bytes:
        """The training report of a bundle; ReportMissing."""
        try:
            return self._report(digest).read_bytes()
        except FileNotFoundError as error:
            raise ReportMissing(digest=digest) from error

    def list_reports(self) -> tuple[str, ...]:
        """Digests of all bundles with a training report, sorted."""
        return tuple(sorted(path.stem for path in self._root.glob("reports/*.json")))

    def _bundle(self, digest: str) -> Path:
        return self._root / "bundles" / f"{_digest(digest)}.bundle"

    def _snapshot(self, digest: str, kind: str) -> Path:
        return self._root / "snapshots" / f"{_digest(digest)}.{kind}"

    def _snapshot_part(self, digest: str, kind: str) -> bytes:
        try:
            return self._snapshot(digest, kind).read_bytes()
        except FileNotFoundError as error:
            raise SnapshotMissing(digest=digest) from error

    def _report(self, digest: str) -> Path:
        return self._root / "reports" / f"{_digest(digest)}.json"

    def _alias(self, workflow: str, alias: str) -> Path:
        return self._root / "aliases" / _name(workflow) / _name(alias)

    def _checkpoint(self, name: str) -> Path:
        return self._root / "checkpoints" / _name(name)


def _digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ArtifactNameUnfit(hint="A digest is 64 lower-case hexadecimal digits.")
    return digest


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ArtifactNameUnfit(hint="Use lower-case letters, digits, dot, dash, underscore.")
    return name


def write_whole(path: Path, data: bytes) -> None:
    """Puts `data` in place of what stands at `path`, whole and durable, or not at all."""
    temporary = _temporary(path, data)
    temporary.replace(path)
    _sync_folder(path.parent)


def _write_new(path: Path, data: bytes) -> bool:
    """Whether there was nothing at `path`, so that `data` stands there now."""
    temporary = _temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(path.parent)
    return True


def _temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
