"""Stop everything that runs on the data folder."""

from __future__ import annotations

import shutil
import signal
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.embedded import processes
from tiebreak.embedded.binaries import Home
from tiebreak.embedded.children import TASKS_DRAIN_SECONDS
from tiebreak.embedded.record import stop_services
from tiebreak.embedded.state import holder
from tiebreak.settings import Settings


def command(
    remove_data: Annotated[
        bool,
        typer.Option("--remove-data", help="Also remove database, keys and models for good."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Stop everything that runs on the data folder, also what a killed start left behind.

    Example: `tiebreak down`
    """
    settings = Settings.load()
    out = Output(as_json=json)
    folder = settings.data_dir
    stopped: list[str] = []
    if folder.exists():
        pid = holder(folder)
        if pid:
            out.note("Finishing open requests and tasks")
            patience = settings.api.drain_seconds + TASKS_DRAIN_SECONDS + 60
            processes.stop(pid, signal.SIGTERM, patience)
            stopped.append("tiebreak")
        stopped += stop_services(folder)
        if remove_data:
            shutil.rmtree(Home.of(folder).path, ignore_errors=True)
            shutil.rmtree(folder)
    told = f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running."
    removed = [f"Removed {folder}."] if remove_data else []
    out.result({"stopped": stopped, "removed": remove_data}, told, *removed)
