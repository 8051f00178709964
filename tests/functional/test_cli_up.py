"""`tiebreak up`, `status` and `down` with the real servers and the real API."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.databases import servers_place
from tests.pages import are_written, write_pages

from tiebreak.cli import exits
from tiebreak.embedded import postgres, processes


@dataclass
class Tiebreak:
    """The command line on one data folder."""

    folder: Path

    def environment(self) -> dict[str, str]:
        ours = ("TIEBREAK_", "DATABASE_", "REDIS_")
        return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {
            "TIEBREAK_DATA_DIR": str(self.folder),
            "TIEBREAK_API__PORT": "0",
            "TIEBREAK_API__WORKERS": "1",
        }

    def run(self, *arguments: str) -> tuple[int, Any]:
        """The exit code and the JSON document of a command."""
        done = subprocess.run(
            [*COMMAND, *arguments, "--json"],
            env=self.environment(),
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, orjson.loads(done.stdout)

    def begin(self) -> subprocess.Popen[bytes]:
        """Start `up` and wait for its word that it runs."""
        process = subprocess.Popen(
            [*COMMAND, "up", "--json"], env=self.environment(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert orjson.loads(process.stdout.readline())["url"].startswith("http://127.0.0.1:")
        return process

    def parts(self) -> dict[str, dict[str, Any]]:
        return {part["part"]: part for part in self.run("status")[1]["parts"]}

    def until(self, holds: Callable[[dict[str, dict[str, Any]]], bool], seconds: float) -> None:
        """Wait until the parts are as wanted."""
        deadline = time.monotonic() + seconds
        while not holds(parts := self.parts()):
            assert time.monotonic() < deadline, parts
            time.sleep(0.3)


COMMAND = (sys.executable, "-c", "from tiebreak.cli import main; main()")


@contextmanager
def at(place: Path, tmp_path: Path) -> Generator[Tiebreak]:
    folder = place / f"tiebreak up {os.getpid()} {tmp_path.name}"
    made = Tiebreak(folder)
    yield made
    code, told = made.run("down", "--remove-data", "--yes")
    assert (code, told["removed"]) == (exits.OK, True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def tiebreak(tmp_path: Path) -> Generator[Tiebreak]:
    with at(servers_place(), tmp_path) as made:
        yield made


@pytest.fixture
def tiebreak_on_disk(tmp_path: Path) -> Generator[Tiebreak]:
    with at(Path(tempfile.gettempdir()), tmp_path) as made:
        yield made


def test_nothing_runs_before_up(tiebreak: Tiebreak) -> None:
    code, told = tiebreak.run("status")
    assert (code, told["status"], told["parts"]) == (exits.OK, "stopped", [])
    assert tiebreak.run("down") == (exits.OK, {"stopped": [], "removed": False})
    assert not tiebreak.folder.exists()
    tiebreak.folder.mkdir()


def test_a_data_folder_that_cannot_be_made_is_a_plain_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments in (("up",), ("up", "--detach")):
        code, told = Tiebreak(tmp_path / "file" / "data").run(*arguments)
        assert (code, told["error"]["code"]) == (3, "data_folder_unusable")


def test_data_is_removed_only_when_that_is_confirmed(tiebreak: Tiebreak) -> None:
    tiebreak.folder.mkdir()
    marker = tiebreak.folder / "marker"
    marker.write_text("")
    code, told = tiebreak.run("down", "--remove-data")
    assert (code, told["error"]["code"]) == (3, "not_confirmed")
    assert "--yes" in told["error"]["hint"]
    code, said = _answered(tiebreak, "n\n")
    assert (code, marker.exists()) == (3, True)
    for part in (str(tiebreak.folder), "the database", "keys", "models", "Remove it all?"):
        assert part in said
    code, said = _answered(tiebreak, "y\n")
    assert (code, tiebreak.folder.exists()) == (exits.OK, False), said


def _answered(tiebreak: Tiebreak, answer: str) -> tuple[int, str]:
    """Run `down --remove-data` on a terminal where somebody types; exit code and what it says."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        done = subprocess.run(
            [*COMMAND, "down", "--remove-data"],
            env=tiebreak.environment() | {"COLUMNS": "500"},
            stdin=theirs,
            capture_output=True,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.mark.timeout(300)
@pytest.mark.full
def test_up_runs_until_it_is_told_to_stop_and_survives_being_killed(tiebreak: Tiebreak) -> None:
    process = tiebreak.begin()
    tiebreak.until(lambda parts: parts["tasks"]["state"] == "running", 60)
    _, told = tiebreak.run("status")
    assert told["pid"] == process.pid
    assert told["status"] in {"ready", "not_ready", "degraded"}
    first = tiebreak.parts()
    assert {part["state"] for part in first.values()} == {"running"}

    code, error = tiebreak.run("up")
    assert code == 5
    assert str(process.pid) in error["error"]["message"]

    process.kill()
    process.wait()
    for name in ("api-1", "tasks"):
        assert processes.wait_gone(first[name]["pid"], 10)
    left = tiebreak.parts()
    assert {name: part["pid"] for name, part in left.items()} == {
        name: first[name]["pid"] for name in ("postgres", "valkey")
    }

    again = tiebreak.begin()
    adopted = tiebreak.parts()
    for name in ("postgres", "valkey"):
        assert adopted[name]["pid"] == first[name]["pid"]
    again.send_signal(signal.SIGTERM)
    assert again.wait(90) == exits.OK
    for part in adopted.values():
        assert part["pid"] is None or processes.wait_gone(part["pid"], 1)
    assert tiebreak.run("status")[1]["status"] == "stopped"


@pytest.mark.full
@pytest.mark.timeout(300)
def test_whatever_is_killed_or_hangs_comes_back(tiebreak: Tiebreak) -> None:
    code, _ = tiebreak.run("up", "--detach")
    assert code == exits.OK
    before = tiebreak.parts()
    for name, number in (
        ("api-1", signal.SIGKILL),
        ("postgres", signal.SIGKILL),
        ("valkey", signal.SIGKILL),
        ("api-1", signal.SIGSTOP),
    ):
        pid = tiebreak.parts()[name]["pid"]
        os.kill(pid, number)
        tiebreak.until(
            lambda parts, n=name, p=pid: (
                parts[n]["pid"] not in {p, None} and parts[n]["state"] == "running"
            ),
            90,
        )
    after = tiebreak.parts()
    for name in ("postgres", "valkey"):
        assert after[name]["port"] == before[name]["port"]
    code, told = tiebreak.run("down")
    assert (code, told["stopped"]) == (exits.OK, ["tiebreak"])


@pytest.mark.full
def test_what_changes_in_tables_is_on_its_way_to_the_disk_at_once(
    tiebreak_on_disk: Tiebreak,
) -> None:
    process = tiebreak_on_disk.begin()
    made_longer = next(postgres.tables(tiebreak_on_disk.folder).iterdir()) / "made_longer"
    write_pages(made_longer)
    assert are_written(made_longer)
    made_longer.unlink()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == exits.OK
