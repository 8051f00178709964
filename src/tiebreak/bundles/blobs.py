"""Where artifacts lie: blobs by name, each whole or not there at all.

A name is a path of plain words, `bundles/<digest>.bundle`. A folder and an S3 bucket are such
places; what the names mean is said in `artifacts.py`.
"""

from __future__ import annotations

from typing import Protocol

from tiebreak.errors import Problem, Unavailable


class ArtifactsUnavailable(Unavailable):
    """The place of the artifacts does not answer."""

    code = "artifacts_unavailable"


class Blobs(Protocol):
    """A place of blobs. Each call raises ArtifactsUnavailable when the place does not answer."""

    def put(self, name: str, data: bytes) -> None:
        """Puts `data` in place of what has this name, whole and durable, or not at all."""
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Whether nothing had this name, so that `data` has it now; of many at once one wins."""
        ...

    def get(self, name: str) -> bytes | None:
        """The bytes of this name, None where there are none."""
        ...

    def has(self, name: str) -> bool:
        """Whether there are bytes of this name."""
        ...

    def delete(self, name: str) -> None:
        """Takes what has this name away for good, with all earlier versions of it."""
        ...

    def names(self, folder: str, *, after: str = "") -> tuple[str, ...]:
        """Last words of the names directly in this folder that come after `after`, sorted."""
        ...

    def problems(self) -> tuple[Problem, ...]:
        """What the place lacks to be trusted with artifacts, and how to mend it."""
        ...
