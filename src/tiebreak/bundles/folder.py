"""Blobs in a folder of this machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tiebreak.bundles.blobs import ArtifactsUnavailable
from tiebreak.errors import Problem


class Folder:
    """The blobs under one folder, which is made where it does not exist."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def put(self, name: str, data: bytes) -> None:
        """See `Blobs`."""
        with self._asking():
            write_whole(self._root / name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Blobs`."""
        path = self._root / name
        with self._asking():
            temporary = _temporary(path, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
            _sync_folder(path.parent)
        return True

    def get(self, name: str) -> bytes | None:
        """See `Blobs`."""
        with self._asking():
            try:
                return (self._root / name).read_bytes()
            except FileNotFoundError:
                return None

    def has(self, name: str) -> bool:
        """See `Blobs`."""
        with self._asking():
            return (self._root / name).is_file()

    def delete(self, name: str) -> None:
        """See `Blobs`."""
        path = self._root / name
        with self._asking():
            try:
                path.unlink()
            except FileNotFoundError:
                return
            _sync_folder(path.parent)

    def names(self, folder: str, *, after: str = "") -> tuple[str, ...]:
        """See `Blobs`."""
        with self._asking():
            found = [path.name for path in (self._root / folder).glob("[!.]*") if path.is_file()]
        return tuple(sorted(name for name in found if name > after))

    def problems(self) -> tuple[Problem, ...]:
        """See `Blobs`; a folder is taken as it is."""
        return ()

    @contextmanager
    def _asking(self) -> Generator[None]:
        """What goes wrong with the disk is an ArtifactsUnavailable."""
        try:
            yield
        except OSError as error:
            hint = "Look at the disk and at who may read and write there."
            raise ArtifactsUnavailable(f"{self} fails: {error.strerror}.", hint=hint) from error


def write_whole(path: Path, data: bytes) -> None:
    """Puts `data` in place of what stands at `path`, whole and durable, or not at all."""
    temporary = _temporary(path, data)
    temporary.replace(path)
    _sync_folder(path.parent)


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
