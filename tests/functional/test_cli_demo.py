"""`tiebreak demo` from an empty folder and once more."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIEBREAK = (sys.executable, "-c", "from tiebreak.cli import main; main()")


@pytest.fixture
def environment() -> Generator[dict[str, str]]:
    """The environment of an empty data folder in a path with spaces."""
    folder = Path(tempfile.mkdtemp(prefix="tiebreak demo "))
    foreign = ("TIEBREAK_", "DATABASE_", "REDIS_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    yield kept | {"TIEBREAK_DATA_DIR": str(folder / "data"), "TIEBREAK_API__PORT": "0"}
    shutil.rmtree(folder, ignore_errors=True)


def demo(environment: dict[str, str], *arguments: str) -> tuple[dict[str, Any], float]:
    begun = time.monotonic()
    done = subprocess.run(
        [*TIEBREAK, "demo", "--exit", "--tickets", "300", "--json", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), time.monotonic() - begun


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_demo_learns_once_and_decides_new_tickets_each_time(
    environment: dict[str, str],
) -> None:
    first, cold_seconds = demo(environment)
    assert first["imported"] >= 60_000
    worth = first["figures"]["worth"]
    assert worth["tickets"] == first["figures"]["scored"] == 300
    assert first["metrics"]["auc"] > 0.7
    assert first["replayed"] == first["identical"] > 0
    assert first["is_intact"]
    second, warm_seconds = demo(environment)
    assert second["imported"] == first["imported"]
    assert second["decision"]["ticket_id"] != first["decision"]["ticket_id"]
    assert second["replayed"] == second["identical"] > 0
    assert second["is_intact"]
    assert warm_seconds < cold_seconds


def test_the_demo_says_where_it_needs_to_run(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*TIEBREAK, "demo", "--exit", "--json"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["code"] == "workflows_missing"
