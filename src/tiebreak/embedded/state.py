"""What is remembered between two starts of a data folder, and who runs it now."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import orjson

from tiebreak.errors import Conflict, InvalidInput

LOOK_SECONDS = 0.2  # more than it takes to look at a lock


class AlreadyRunning(Conflict):
    """Tiebreak already runs on this data folder."""

    code = "already_running"


class DataFolderUnusable(InvalidInput):
    """The data folder cannot be used."""

    code = "data_folder_unusable"


def ensure_folder(data_dir: Path) -> None:
    """Make the data folder where it is missing; raises DataFolderUnusable."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(data_dir, error) from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise _unusable(data_dir, PermissionError("it belongs to another user"))


class State:
    """Small facts kept in `<data_dir>/state.json`, such as chosen ports; written atomically."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "state.json"

    def read(self) -> dict[str, int | str]:
        """All facts; empty when there are none or the file is damaged."""
        try:
            return orjson.loads(self._path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            return {}

    def write(self, **facts: int | str | None) -> None:
        """Change some facts; None removes one."""
        merged = {k: v for k, v in {**self.read(), **facts}.items() if v is not None}
        draft = self._path.with_name(f".state.{secrets.token_hex(4)}")
        draft.write_bytes(orjson.dumps(merged, option=orjson.OPT_INDENT_2))
        draft.rename(self._path)

    def port(self, name: str) -> int:
        """The remembered port of a server if it is free now, else a free one, remembered."""
        known = self.read().get(name)
        port = known if isinstance(known, int) and is_free(known) else free_port()
        if port != known:
            self.write(**{name: port})
        return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def locked(data_dir: Path, name: str = "up") -> Generator[None]:
    """Hold the data folder's lock; it falls by itself when this process ends, however it ends.

    Raises AlreadyRunning, with the pid of the holder, when another process holds it.
    """
    ensure_folder(data_dir)
    handle = os.open(data_dir / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _taken(handle):
            raise _already_running(data_dir, os.pread(handle, 20, 0))
        os.truncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    """Take a lock; one that falls within the time that `holder` needs to look at it is free."""
    end = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(LOOK_SECONDS / 20)
        else:
            return True


def holder(data_dir: Path, name: str = "up") -> int | None:
    """The pid that holds the data folder's lock, or None."""
    try:
        handle = os.open(data_dir / f"{name}.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(data_dir, error) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(handle, 20, 0) or b"0")
    else:
        return None
    finally:
        os.close(handle)


def _unusable(data_dir: Path, error: OSError) -> DataFolderUnusable:
    return DataFolderUnusable(
        f"The data folder {data_dir} cannot be used: {error.strerror or error}.",
        hint="Set TIEBREAK_DATA_DIR to a folder of yours, or run as the user it belongs to.",
    )


def _already_running(data_dir: Path, pid: bytes) -> AlreadyRunning:
    return AlreadyRunning(
        f"Tiebreak already runs on {data_dir} (process {pid.decode() or 'unknown'}).",
        hint="Look with `tiebreak status`, stop it with `tiebreak down`, "
        "or choose another TIEBREAK_DATA_DIR.",
        data_dir=str(data_dir),
    )
