"""Start everything: database, queue, API, tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.cli.output import JsonOption, Output
from tiebreak.embedded.binaries import EmbeddedFailed
from tiebreak.embedded.record import read_record
from tiebreak.embedded.state import ensure_folder, holder
from tiebreak.embedded.supervisor import READY_SECONDS, Supervisor, running
from tiebreak.settings import Settings


def command(
    detach: Annotated[bool, typer.Option("--detach", help="Return once everything runs.")] = False,
    json: JsonOption = False,
) -> None:
    """Start everything and run until Ctrl-C; servers without an address are our own.

    Example: `tiebreak up`, or `DATABASE_URL=… DATABASE_OWNER_URL=… tiebreak up`
    """
    settings = Settings.load()
    out = Output(as_json=json)
    for problem in ArtifactStore.of(settings).examine():
        out.note(f"Warning: {problem}")
    if detach and holder(settings.data_dir) is None:
        _detach(settings, out)
        return
    begun = time.monotonic()
    with until_stopped() as stopping, running(settings, out.note) as supervisor:
        stopping.supervisor = supervisor
        out.note("Starting the API")
        told = supervisor.wait_ready()
        seconds = time.monotonic() - begun
        out.result(
            {"url": supervisor.url, "status": told.status, "seconds": round(seconds, 2)},
            f"Tiebreak runs on {supervisor.url}, documented at {supervisor.url}/docs "
            f"({told.status} after {seconds:.1f} s). Ctrl-C stops it.",
            *(f"  • {problem.get('message')} {problem.get('hint')}" for problem in told.problems),
        )
        supervisor.wait()


class _Stopped(BaseException):
    """The first Ctrl-C or SIGTERM: leave the block at once and in order."""


class Stopping:
    """Turns signals into an orderly end; a second one kills what is still waited for."""

    supervisor: Supervisor | None = None

    def first(self, _number: int, _frame: FrameType | None) -> None:
        """Leave the block."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.again)
        raise _Stopped

    def again(self, _number: int, _frame: FrameType | None) -> None:
        """Do not wait any longer."""
        if self.supervisor is not None:
            self.supervisor.hurry()


@contextmanager
def until_stopped() -> Generator[Stopping]:
    """Run the block until Ctrl-C or SIGTERM, which end it quietly."""
    stopping = Stopping()
    before = {
        number: signal.signal(number, stopping.first) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stopping
    except _Stopped:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _detach(settings: Settings, out: Output) -> None:
    """Run `up` in a session of its own and wait until it has everything running."""
    ensure_folder(settings.data_dir)
    log = settings.data_dir / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", "from tiebreak.cli import main; main()", "up"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=dict(os.environ),
        )
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        record = read_record(settings.data_dir)
        if record is not None and all(program["is_up"] for program in record["programs"]):
            url = f"http://{record['host']}:{record['port']}"
            out.result({"url": url, "pid": process.pid}, f"Tiebreak runs on {url}.")
            return
        time.sleep(0.1)
    words = "; ".join(log.read_text(errors="replace").splitlines()[-2:])
    raise EmbeddedFailed(f"Tiebreak did not come up: {words}", hint=f"Look into {log}.")
