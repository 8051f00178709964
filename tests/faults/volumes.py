"""A disk of the test's own: an ext4 file system in a file, which can be filled up and frozen."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

BYTES = 12 << 30  # sparse: it takes what is written; more than PostgreSQL's `max_wal_size`
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878


class Volume:
    """Mounted on `folder` until it is closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._image = folder.with_name(f"{folder.name}.img")
        self._ballast = folder / "ballast"
        folder.mkdir()
        self._image.touch()
        os.truncate(self._image, BYTES)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        _run("mount", "-o", "loop", str(self._image), str(folder))

    @staticmethod
    def obstacle() -> str | None:
        """Why this machine, or this user, cannot have one; None where it can."""
        if os.geteuid() != 0:
            return "only root can mount a file system to fill and freeze"
        if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
            return "this machine has no mkfs.ext4 or no loop devices"
        return None

    def fill(self) -> None:
        """Take all the space there is; what is written meanwhile gets the last of it."""
        handle = os.open(self._ballast, os.O_CREAT | os.O_WRONLY)
        try:
            size = 0
            for step in (1 << 30, 1 << 24, 1 << 18, 1 << 12):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(handle, size, step)
                        size += step
        finally:
            os.close(handle)

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def freeze(self) -> None:
        """From now on nothing is written: who tries waits, as for a disk that does not answer."""
        self._control(FIFREEZE)

    def thaw(self) -> None:
        """Let everybody go on."""
        with suppress(OSError):  # it was not frozen
            self._control(FITHAW)

    def close(self) -> None:
        """Unmount it and remove its file."""
        self.thaw()
        _run("umount", "--lazy", str(self._folder))
        self._image.unlink()

    def _control(self, request: int) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, request, 0)
        finally:
            os.close(handle)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
