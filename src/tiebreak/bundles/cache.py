"""Verified bundles kept on this machine, so that a place that is away takes no model away."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from tiebreak.bundles.folder import write_whole

log = structlog.get_logger()


class BundleCache:
    """Bundles by digest in a folder, up to so many bytes; those used longest ago leave first.

    A disk that fails is never an error: then there is no copy.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def path(self, digest: str) -> Path:
        """Where the copy of this bundle stands."""
        return self._folder / f"{digest}.bundle"

    def get(self, digest: str) -> bytes | None:
        """The copy's bytes, unverified; None where there is no copy."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed(error)
            return None
        self.touch(digest)
        return data

    def keep(self, digest: str, data: bytes) -> None:
        """Keep a verified bundle, and let others leave for it."""
        try:
            write_whole(self.path(digest), data)
            self._make_room(digest)
        except OSError as error:
            self._failed(error)

    def touch(self, digest: str) -> None:
        """Note that this bundle is in use."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(error)

    def _make_room(self, newest: str) -> None:
        found = [(path, path.stat()) for path in self._folder.glob("*.bundle")]
        too_much = sum(stat.st_size for _, stat in found) - self._most_bytes
        for path, stat in sorted(found, key=lambda each: each[1].st_mtime_ns):
            if too_much > 0 and path != self.path(newest):
                path.unlink(missing_ok=True)
                too_much -= stat.st_size

    def _failed(self, error: OSError) -> None:
        log.warning("bundle_cache_failed", folder=str(self._folder), reason=error.strerror)
