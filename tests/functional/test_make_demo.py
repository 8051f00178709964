"""`make demo` from a clean clone: in a path with spaces, by an ordinary user, after a kill -9."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.functional.places import ROOT

NOBODY = 65534  # an ordinary account of every Linux
SPACE_BYTES = 6 << 30
DEMO = ("make", "demo", "DEMO_ARGS=--exit --tickets 300")


@dataclass(frozen=True)
class Clone:
    """A clone of the repository, and who works in it."""

    folder: Path
    home: Path

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in the clone, as an ordinary user where we are root."""
        left_out = ("TIEBREAK_", "DATABASE_", "REDIS_", "UV_CACHE", "VIRTUAL_ENV", "XDG_", "MAKE")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        account = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if _is_root() else {}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=kept | {"HOME": str(self.home), "TIEBREAK_API__PORT": "0"},
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **account,
            **options,
        )

    def run(self, *command: str) -> str:
        """Run a command in the clone to its good end; what it says."""
        with self.start(*command, stdout=subprocess.PIPE) as process:
            out, _ = process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    def kill_under_way(self, *command: str, after: str) -> None:
        """Start a command and kill -9 all of its session when it has said this."""
        log = self.home / "log"
        with log.open("wb") as out, self.start(*command, stdout=out) as process:
            while after not in log.read_text():
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)


def _is_root() -> bool:
    return os.getuid() == 0


@pytest.fixture
def clone() -> Generator[Clone]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a clone of the repository, so there is nothing to clone")
    base = Path(tempfile.mkdtemp(prefix="tiebreak make "))
    if shutil.disk_usage(base).free < SPACE_BYTES:
        base.rmdir()
        pytest.skip(f"{base.parent} has less than {SPACE_BYTES >> 30} GiB for an environment")
    made = Clone(base / "a clone", base / "home")
    made.home.mkdir()
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, made.folder], check=True)
    if _is_root():
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", base], check=True)
    yield made
    made.run("make", "clean-data")
    shutil.rmtree(base, ignore_errors=True)


@pytest.mark.full
@pytest.mark.timeout(3_000)
def test_the_demo_runs_from_a_clean_clone_twice_in_a_row_and_after_a_kill(clone: Clone) -> None:
    clone.kill_under_way(*DEMO, after="✓ Simulating")
    assert "✓ Model" in clone.run(*DEMO)
    clone.kill_under_way(*DEMO, after="✓ API")
    for _ in range(2):
        assert "✓ Verifying the audit trail" in clone.run(*DEMO)
