"""Backups: everything of a data folder in one file, from which another machine goes on.

The file is a tar of the database's dump, artifacts, backtests and secrets; who has it has the keys.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

import asyncpg
import orjson

from tiebreak.embedded import postgres
from tiebreak.embedded.binaries import EmbeddedFailed, Home
from tiebreak.embedded.stack import DATABASE, Services, passwords
from tiebreak.embedded.state import ensure_folder, locked
from tiebreak.errors import Conflict, IntegrityFailure, InvalidInput
from tiebreak.secret_files import read_secret
from tiebreak.settings import Settings
from tiebreak.store import roles

FORMAT: Final = 1
DUMP, MANIFEST = "database.dump", "backup.json"
KEPT: Final = ("artifacts", "backtests", "secrets")
PASSING: Final = shutil.ignore_patterns(".*", "unfinished")  # files that are being written


class ExternalDatabase(Conflict):
    """The database is not one of our own."""

    code = "external_database"


class NotABackup(InvalidInput):
    """The file is no backup of Tiebreak."""

    code = "not_a_backup"


class BackupBroken(IntegrityFailure):
    """The backup does not hold all that it should."""

    code = "backup_broken"


class FolderInUse(Conflict):
    """The data folder is not empty."""

    code = "folder_in_use"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup says of itself."""

    format: int
    version: str
    created_at: str


def write(services: Services, target: Path) -> Backup:
    """Write everything into a new file that only its owner reads, while deciding goes on.

    Raises ExternalDatabase, InvalidInput when the file is there, and EmbeddedFailed.
    """
    settings = services.settings
    if services.postgres is None:
        raise ExternalDatabase(
            hint="Back it up with its own tools, and copy the folders secrets, artifacts and "
            f"backtests of {settings.data_dir}."
        )
    if target.exists():
        raise InvalidInput(f"{target} is there already.", hint="Choose another name.")
    made = Backup(FORMAT, version("tiebreak"), datetime.now(UTC).isoformat())
    with tempfile.TemporaryDirectory(dir=target.absolute().parent) as place:
        folder = Path(place)
        # Checkpoints before the database, which then holds all that they tell of, and bundles
        # after it, so that all which it names are there.
        for name in KEPT:
            if (settings.data_dir / name).exists():
                shutil.copytree(settings.data_dir / name, folder / name, ignore=PASSING)
        url = services.postgres.url(DATABASE)
        _run(settings, "pg_dump", url, "--format=custom", f"--file={folder / DUMP}")
        bundles = settings.artifacts_dir / "bundles"
        if bundles.exists():
            there = folder / "artifacts" / "bundles"
            shutil.copytree(bundles, there, ignore=PASSING, dirs_exist_ok=True)
        (folder / MANIFEST).write_bytes(orjson.dumps(made))
        draft = folder / "backup.tar"
        draft.touch(mode=0o600)
        with tarfile.open(draft, "w") as tar:
            for name in (MANIFEST, DUMP, *KEPT):
                if (folder / name).exists():
                    tar.add(folder / name, name)
        os.link(draft, target)
    return made


def restore(settings: Settings, source: Path) -> Backup:
    """Make the data folder, which has nothing yet, what was backed up; leaves the server stopped.

    Raises ExternalDatabase, FolderInUse, NotABackup, BackupBroken and EmbeddedFailed.
    """
    folder = settings.data_dir.absolute()
    settings = settings.model_copy(update={"data_dir": folder})
    if settings.database.url is not None:
        raise ExternalDatabase(hint="Restore it with its own tools, or unset DATABASE_URL.")
    ensure_folder(folder)
    with locked(folder):
        if settings.secrets_dir.exists() or postgres.is_initialised(folder):
            raise FolderInUse(hint="Set TIEBREAK_DATA_DIR to a new folder.", folder=str(folder))
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = _unpacked(source, Path(place))
            for name in KEPT:
                if (Path(place) / name).exists():
                    (Path(place) / name).rename(folder / name)
            settings.secrets_dir.chmod(0o700)
            _load(settings, Path(place) / DUMP)
    return made


def _unpacked(source: Path, place: Path) -> Backup:
    try:
        with tarfile.open(source) as tar:
            tar.extractall(place, filter="data")
        told = orjson.loads((place / MANIFEST).read_bytes())
        made = Backup(**told)
    except (OSError, tarfile.TarError, TypeError, ValueError) as error:
        raise NotABackup(f"{source} is no backup: {error}.", file=str(source)) from None
    if made.format != FORMAT:
        raise NotABackup(hint=f"It was written by version {made.version}.", file=str(source))
    missing = [name for name in (DUMP, "secrets") if not (place / name).exists()]
    if missing:
        raise BackupBroken(f"{source} lacks {', '.join(missing)}.", hint="Take another backup.")
    return made


def _load(settings: Settings, dump: Path) -> None:
    """A new cluster with the dumped database."""
    folder = settings.data_dir
    server = postgres.start(folder, read_secret(settings.secrets_dir, "superuser.password"))
    try:
        asyncio.run(_prepare(server.url(postgres.SUPERUSER), passwords(settings.secrets_dir)))
        url = server.url(DATABASE)
        _run(settings, "pg_restore", url, "--exit-on-error", "--single-transaction", str(dump))
    finally:
        postgres.stop(folder)


async def _prepare(url: str, words: dict[str, str]) -> None:
    admin = await asyncpg.connect(url)
    try:
        await roles.ensure_roles(admin, words)
        await roles.ensure_database(admin, DATABASE)
    finally:
        await admin.close()


def _run(settings: Settings, program: str, url: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs; the password goes where no list of processes shows it."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    address = urlunsplit(parts._replace(netloc=f"{name}@{host}"))
    path = Home.of(settings.data_dir).postgres_programs() / program
    done = subprocess.run(
        [str(path), f"--dbname={address}", *arguments],
        env={"PATH": os.defpath, "PGPASSWORD": unquote(password)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EmbeddedFailed(
            f"{program} failed: {done.stderr.strip()}", hint="Look at the space on the disk."
        )
