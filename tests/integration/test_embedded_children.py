"""Supervised processes: started again after a crash, killed when hung, gone with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tiebreak.embedded import children, processes
from tiebreak.embedded.children import Child, Program

BEATING = """
import os, sys, time
for _ in range(int(sys.argv[2])):
    os.write(int(sys.argv[1]), b".")
    time.sleep(0.05)
time.sleep(60)
"""
CRASHING = "import sys; print('last words', flush=True); sys.exit(3)"
DRAINING = """
import signal, sys, time
def end(*_):
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("started", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("started", flush=True)
time.sleep(60)
"""
FORKING = """
import os, time
if os.fork() == 0:
    print("fork", os.getpid(), flush=True)
time.sleep(60)
"""

Make = Callable[..., Child]


def search_path(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def make(tmp_path: Path) -> Generator[Make]:
    made: list[Child] = []

    def child(source: str, *arguments: str) -> Child:
        (tmp_path / "program.py").write_text(source)
        program = Program(
            name="program",
            arguments=("program", *arguments),
            log=tmp_path / "logs" / "program.log",
            environment={**os.environ, "PYTHONPATH": search_path(tmp_path)},
        )
        made.append(Child(program))
        return made[-1]

    yield child
    for each in made:
        each.wait_ended(0)


def watch(child: Child, until: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, child
        child.watch()
        time.sleep(0.02)


def log(child: Child) -> str:
    return child.program.log.read_text() if child.program.log.exists() else ""


def test_a_crashed_process_is_started_again_after_growing_pauses(make: Make) -> None:
    child = make(CRASHING)
    begun = time.monotonic()
    watch(child, lambda: child.restarts == 2)
    assert time.monotonic() - begun > children.FIRST_DELAY_SECONDS * (1 + 2)
    assert child.last_end == "ended with code 3"
    assert log(child).count("last words") >= 2


def test_a_killed_process_is_started_again(make: Make) -> None:
    child = make(DRAINING)
    watch(child, lambda: "started" in log(child))
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    watch(child, lambda: child.pid not in {None, first})
    assert child.last_end == "ended by signal SIGKILL"


def test_it_is_up_with_its_first_heartbeat_and_killed_without_more(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "HANG_SECONDS", 1.0)
    child = make(BEATING, "{heartbeat}", "10")
    child.watch()
    assert not child.is_up
    watch(child, lambda: child.is_up)
    hung = child.pid
    assert hung is not None
    watch(child, lambda: child.last_end != "")
    assert "no sign of life" in child.last_end
    assert not processes.is_alive(hung)


def test_one_is_not_hung_because_everything_stood_still(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "HANG_SECONDS", 1.0)
    monkeypatch.setattr(children, "PAUSE_SECONDS", 1.0)
    child = make(BEATING, "{heartbeat}", "10")
    watch(child, lambda: child.is_up)
    time.sleep(2)  # who watches stands still, and so does the program, as far as can be told
    child.watch()
    assert child.is_up
    watch(child, lambda: child.last_end != "")
    assert "no sign of life" in child.last_end


def test_one_that_cannot_be_started_now_is_tried_again(make: Make) -> None:
    child = make(BEATING, "{heartbeat}", "10")
    child.program.log.mkdir(parents=True)  # in the way
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        child.watch()
    assert not child.watch()  # it pauses first
    assert len(os.listdir("/proc/self/fd")) == files
    child.program.log.rmdir()
    watch(child, lambda: child.is_up)


def test_one_that_never_beats_is_killed_after_its_time_to_start(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "START_SECONDS", 0.5)
    child = make(BEATING, "{heartbeat}", "0")
    watch(child, lambda: child.last_end != "")
    assert "no sign of life" in child.last_end


def test_it_may_finish_its_work(make: Make) -> None:
    child = make(DRAINING)
    watch(child, lambda: "started" in log(child))
    child.terminate()
    child.wait_ended(time.monotonic() + 10)
    assert child.process is None
    assert "drained" in log(child)


def test_it_is_killed_when_it_takes_too_long(make: Make) -> None:
    child = make(STUBBORN)
    watch(child, lambda: "started" in log(child))
    pid = child.pid
    assert pid is not None
    child.terminate()
    child.wait_ended(time.monotonic() + 0.3)
    assert not processes.is_alive(pid)


def test_a_killed_parent_takes_its_children_and_their_forks_with_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(FORKING)
    parent = f"""
import os, time
from pathlib import Path
from tiebreak.embedded.children import Child, Program
child = Child(Program("program", ("program",), Path({str(tmp_path / "log")!r}), dict(os.environ)))
child.watch()
print(child.pid, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search_path(tmp_path)},
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    deadline = time.monotonic() + 10
    while "fork" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fork = int((tmp_path / "log").read_text().split()[1])
    assert processes.is_alive(child)
    process.kill()
    process.wait()
    assert processes.wait_gone(child, 5)
    assert processes.wait_gone(fork, 5)


def test_a_long_log_is_put_aside(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 5)
    child = make(CRASHING)
    watch(child, lambda: child.restarts == 1)
    assert child.program.log.with_suffix(".log.1").exists()
