"""`tiebreak demo` from an empty folder, what README shows while it serves, and once more."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.functional.machines import Machine, machine, shell_blocks
from tests.functional.places import ROOT

DEMO = (*(sys.executable, "-c", "from tiebreak.cli import main; main()"), "demo", "--json")
FEW = ("--tickets", "300")


@pytest.fixture
def place() -> Generator[Machine]:
    """An empty data folder in a path with spaces."""
    made = machine("demo")
    yield made
    made.down()


def served(process: subprocess.Popen[bytes], told: Path, seconds: float = 600) -> dict[str, Any]:
    """What the demo told before it began to wait for Ctrl-C."""
    end = time.monotonic() + seconds
    while not (text := told.read_text()).endswith("}\n"):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
    return json.loads(text)


@pytest.mark.full
@pytest.mark.timeout(1_200)
def test_the_demo_learns_once_serves_what_the_readme_shows_and_decides_new_tickets_each_time(
    place: Machine,
) -> None:
    begun, told = time.monotonic(), place.folder / "told.json"
    with (
        told.open("wb") as out,
        subprocess.Popen([*DEMO, *FEW], cwd=ROOT, env=place.environment, stdout=out) as serving,
    ):
        try:
            first = served(serving, told)
            cold_seconds = time.monotonic() - begun
            assert follow_readme(place)["policy_hash"] == first["decision"]["policy_hash"]
        finally:
            serving.send_signal(signal.SIGINT)
        assert serving.wait(60) == 0
    assert first["imported"] >= 60_000
    worth = first["figures"]["worth"]
    assert worth["tickets"] == first["figures"]["scored"] == 300
    assert first["metrics"]["auc"] > 0.7
    assert first["replayed"] == first["identical"] > 0
    assert first["is_intact"]

    begun = time.monotonic()
    done = run(place, *FEW, "--exit", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    second = json.loads(done.stdout)
    assert second["imported"] == first["imported"]
    assert second["decision"]["ticket_id"] != first["decision"]["ticket_id"]
    assert second["replayed"] == second["identical"] > 0
    assert second["is_intact"]
    assert time.monotonic() - begun < cold_seconds


def follow_readme(place: Machine) -> dict[str, Any]:
    """Type README's blocks into one shell, as after `make demo`; the decision that comes."""
    _, *blocks = shell_blocks(ROOT / "README.md")
    typed = "\n".join(blocks).replace("http://127.0.0.1:8000", place.url)
    done = subprocess.run(
        ["bash", "-es"],
        input=typed,
        cwd=ROOT,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    decision, _ = json.JSONDecoder().raw_decode(done.stdout, done.stdout.index('{"'))
    return decision


def run(place: Machine, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *arguments],
        env=place.environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_says_where_it_needs_to_run(place: Machine) -> None:
    done = run(place, "--exit", cwd=place.folder)
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["code"] == "workflows_missing"
