"""Places where commands run: a folder, a database and an environment of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.databases import DatabaseUrls, execute, run

from tiebreak import cli
from tiebreak.cli import exits

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """A folder, a database and the environment in which commands run."""

    folder: Path
    urls: DatabaseUrls
    environment: dict[str, str]

    @classmethod
    def made(cls, folder: Path, urls: DatabaseUrls, valkey_url: str) -> Place:
        """A place of its own, where `ann` and `bob` may release, and approve each other's work."""
        foreign = ("TIEBREAK_", "DATABASE_", "REDIS_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | {
            "TIEBREAK_DATA_DIR": str(folder / "data"),
            "DATABASE_URL": urls.app,
            "DATABASE_OWNER_URL": urls.owner,
            "REDIS_URL": valkey_url,
        }
        found = cls(folder, urls, environment)
        for person in ("ann", "bob"):
            roles = ("--role", "ml_engineer", "--role", "approver")
            found.json("keys", "create", "--person", person, *roles)
        return found

    def process(self, *arguments: object) -> Any:
        """Run a command as a process of its own with --json; what it says."""
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from tiebreak.cli import main; main()"),
                *(*map(str, arguments), "--json"),
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == exits.OK, done.stdout + done.stderr
        return json.loads(done.stdout)

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Run a command in this process, which saves its imports; exit code and what it says."""
        return run_here(self.environment, [str(word) for word in arguments])

    def json(self, *arguments: object, code: int = exits.OK) -> Any:
        """Run a command in this process with --json; what it says."""
        found, out, err = self.run(*arguments, "--json")
        assert found == code, out + err
        return json.loads(out)

    def alter(self, *statements: str) -> None:
        """Do what only a superuser can, past every guard."""
        run(execute(self.urls.admin, "SET session_replication_role = replica", *statements))


def run_here(environment: Mapping[str, str], words: Sequence[str]) -> tuple[int, str, str]:
    """Run a command of ours in this process; exit code and what it says."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, environment, clear=True),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        code = exits.run(cli.build(words), words)
    return code, _text(out), _text(err)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
