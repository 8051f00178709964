"""The artifacts: bundles by digest, aliases, signed checkpoints, snapshots, reports.

    bundles/<digest>.bundle
    aliases/<workflow>/risk_model_latest, risk_model_candidate
    checkpoints/<name>
    snapshots/<hash>.parquet, <hash>.json
    reports/<digest>.json

They lie in a folder or in an S3 bucket. An alias is for people and tools; what may be loaded is
named by the release record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

import structlog

from tiebreak.bundles.blobs import ArtifactsUnavailable, Blobs
from tiebreak.bundles.cache import BundleCache
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import digest_of, open_bundle
from tiebreak.bundles.signing import BundleAltered, BundleKeys, BundleRejected, payload_of
from tiebreak.errors import Conflict, InvalidInput, NotFound, Problem
from tiebreak.settings import Settings

log = structlog.get_logger()

Alias = Literal["risk_model_latest", "risk_model_candidate"]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


class BundleMissing(NotFound):
    """No bundle of this digest is among the artifacts."""

    code = "bundle_missing"


class CheckpointMissing(NotFound):
    """No checkpoint of this name is among the artifacts."""

    code = "checkpoint_missing"


class CheckpointExists(Conflict):
    """A checkpoint of this name exists with other content."""

    code = "checkpoint_exists"


class SnapshotMissing(NotFound):
    """No data set snapshot of this hash is among the artifacts."""

    code = "snapshot_missing"


class ReportMissing(NotFound):
    """No training report of this model is among the artifacts."""

    code = "report_missing"


class ArtifactNameUnfit(InvalidInput):
    """This is not a name that an artifact can have."""

    code = "artifact_name_unfit"


class S3Missing(InvalidInput):
    """Artifacts on S3 need an S3 client, which is not installed."""

    code = "s3_missing"


class ArtifactStore:
    """The artifacts of one place. All but the constructors raise ArtifactsUnavailable."""

    def __init__(self, blobs: Blobs, cache: BundleCache | None = None) -> None:
        self._blobs = blobs
        self._cache = cache

    @classmethod
    def of(cls, settings: Settings) -> ArtifactStore:
        """The artifacts where the settings say: in a bucket, else in the data folder; S3Missing.

        No connection is made before the first use.
        """
        if settings.artifacts.url is None:
            return cls(Folder(settings.artifacts_dir))
        try:
            from tiebreak.bundles.bucket import Bucket  # the extra `s3` may not be installed
        except ModuleNotFoundError as error:
            raise S3Missing(hint="Install the extra: `pip install 'tiebreak[s3]'`.") from error
        cache = BundleCache(settings.bundle_cache_dir, settings.artifacts.cache_bytes)
        return cls(Bucket(settings.artifacts), cache)

    def put_bundle(self, data: bytes) -> str:
        """Stores a signed bundle under the digest of its payload, which is returned."""
        digest = digest_of(payload_of(data))
        self._blobs.put(_bundle(digest), data)
        return digest

    def open_bundle(self, digest: str, keys: BundleKeys) -> Mapping[str, bytes]:
        """The parts of a bundle, from bytes that were verified; BundleMissing, BundleRejected.

        A good copy on this machine answers without the place being asked.
        """
        name = _bundle(digest)
        refused: BundleRejected | None = None
        try:
            parts = self._copied(digest, keys)
        except BundleRejected as error:
            refused = error
        else:
            if parts is not None:
                return parts
        try:
            data = self._blobs.get(name)
        except ArtifactsUnavailable as error:
            if refused is None:
                raise
            raise ArtifactsUnavailable(f"{error.message} {refused.message}", hint=error.hint) from (
                refused
            )
        if data is None:
            raise BundleMissing(digest=digest)
        parts = open_bundle(data, keys, expect_digest=digest)
        if self._cache is not None:
            self._cache.keep(digest, data)
        return parts

    def read_bundle(self, digest: str) -> bytes:
        """The bytes of a bundle as the place has them, unverified, to hand on; BundleMissing."""
        data = self._blobs.get(_bundle(digest))
        if data is None:
            raise BundleMissing(digest=digest)
        return data

    def has_bundle(self, digest: str) -> bool:
        """Whether a bundle of this digest is here."""
        return self._blobs.has(_bundle(digest))

    def list_bundles(self) -> tuple[str, ...]:
        """Digests of all bundles, sorted."""
        return self._listed("bundles", ".bundle")

    def set_alias(self, workflow: str, alias: Alias, digest: str) -> None:
        """Lets the alias name a bundle that is here; BundleMissing."""
        if not self.has_bundle(digest):
            raise BundleMissing(digest=digest)
        self._blobs.put(_alias(workflow, alias), f"{digest}\n".encode())

    def read_alias(self, workflow: str, alias: Alias) -> str | None:
        """The digest that the alias names, None where it names nothing."""
        data = self._blobs.get(_alias(workflow, alias))
        return None if data is None else data.decode(errors="replace").strip()

    def put_checkpoint(self, name: str, data: bytes) -> None:
        """Stores a checkpoint for good; CheckpointExists where it has other content."""
        place = _checkpoint(name)
        if not self._blobs.put_new(place, data) and self._blobs.get(place) != data:
            raise CheckpointExists(name=name)

    def read_checkpoint(self, name: str) -> bytes:
        """The checkpoint's bytes; CheckpointMissing."""
        data = self._blobs.get(_checkpoint(name))
        if data is None:
            raise CheckpointMissing(name=name)
        return data

    def list_checkpoints(self, *, after: str = "") -> tuple[str, ...]:
        """Names of all checkpoints that come after this name, sorted."""
        names = self._blobs.names("checkpoints", after=after)
        return tuple(name for name in names if _NAME.fullmatch(name))

    def put_snapshot(self, digest: str, data: bytes, manifest: bytes) -> None:
        """Stores a data set snapshot; it is there while its data is, and then has its manifest."""
        self._blobs.put(_snapshot(digest, "json"), manifest)
        self._blobs.put(_snapshot(digest, "parquet"), data)

    def read_snapshot(self, digest: str) -> bytes:
        """The snapshot's data; SnapshotMissing."""
        return self._snapshot_part(digest, "parquet")

    def read_snapshot_manifest(self, digest: str) -> bytes:
        """The snapshot's manifest; SnapshotMissing."""
        return self._snapshot_part(digest, "json")

    def has_snapshot(self, digest: str) -> bool:
        """Whether a snapshot of this hash is here."""
        return self._blobs.has(_snapshot(digest, "parquet"))

    def list_snapshots(self) -> tuple[str, ...]:
        """Hashes of all snapshots, sorted."""
        return self._listed("snapshots", ".parquet")

    def delete_snapshot(self, digest: str) -> None:
        """Removes a snapshot for good, its data first."""
        for kind in ("parquet", "json"):
            self._blobs.delete(_snapshot(digest, kind))

    def put_report(self, digest: str, data: bytes) -> None:
        """Stores the training report of a bundle."""
        self._blobs.put(_report(digest), data)

    def read_report(self, digest: str) -> bytes:
        """The training report of a bundle; ReportMissing."""
        data = self._blobs.get(_report(digest))
        if data is None:
            raise ReportMissing(digest=digest)
        return data

    def list_reports(self) -> tuple[str, ...]:
        """Digests of all bundles with a training report, sorted."""
        return self._listed("reports", ".json")

    def examine(self, in_use: Iterable[str] = ()) -> tuple[Problem, ...]:
        """What is wrong with the place, or with these bundles in it, whose copies are kept.

        Of a place that is asked without a copy their payloads are read, too.
        """
        digests = tuple(in_use)
        if self._cache is not None:
            for digest in digests:
                self._cache.touch(digest)
        try:
            troubles = [self._trouble(digest) for digest in digests]
            found = self._blobs.problems()
        except ArtifactsUnavailable as error:
            return (Problem("artifacts", error.code, error.message, error.hint),)
        return (*found, *(trouble for trouble in troubles if trouble is not None))

    def _listed(self, folder: str, ending: str) -> tuple[str, ...]:
        names = self._blobs.names(folder)
        return tuple(name.removesuffix(ending) for name in names if name.endswith(ending))

    def _snapshot_part(self, digest: str, kind: str) -> bytes:
        data = self._blobs.get(_snapshot(digest, kind))
        if data is None:
            raise SnapshotMissing(digest=digest)
        return data

    def _copied(self, digest: str, keys: BundleKeys) -> Mapping[str, bytes] | None:
        """The parts of the copy on this machine, None without one; a refusal names its file."""
        data = None if self._cache is None else self._cache.get(digest)
        if self._cache is None or data is None:
            return None
        try:
            return open_bundle(data, keys, expect_digest=digest)
        except BundleRejected as error:
            path = str(self._cache.path(digest))
            log.warning("bundle_copy_refused", path=path, code=error.code)
            raise type(error)(f"The copy {path} is refused: {error.message}") from error

    def _trouble(self, digest: str) -> Problem | None:
        """Why a worker that starts now would not get a bundle that decides; None: it would."""
        try:
            if self._cache is None:
                if digest_of(payload_of(self.read_bundle(digest))) != digest:
                    raise BundleAltered
            elif not self.has_bundle(digest):
                raise BundleMissing(digest=digest)
        except BundleMissing as error:
            code, message = error.code, f"{self._blobs} no longer holds bundle {digest}"
        except BundleRejected as error:
            code, message = error.code, f"{self._blobs} holds another content of bundle {digest}"
        else:
            return None
        hint = "Put it back before a worker starts anew without it."
        return Problem("artifacts", code, f"{message}, which decides now.", hint)


def _bundle(digest: str) -> str:
    return f"bundles/{_digest(digest)}.bundle"


def _snapshot(digest: str, kind: str) -> str:
    return f"snapshots/{_digest(digest)}.{kind}"


def _report(digest: str) -> str:
    return f"reports/{_digest(digest)}.json"


def _alias(workflow: str, alias: str) -> str:
    return f"aliases/{_fit(workflow)}/{_fit(alias)}"


def _checkpoint(name: str) -> str:
    return f"checkpoints/{_fit(name)}"


def _digest(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise ArtifactNameUnfit(hint="A digest is 64 lower-case hexadecimal digits.")
    return digest


def _fit(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ArtifactNameUnfit(hint="Use lower-case letters, digits, dot, dash, underscore.")
    return name
