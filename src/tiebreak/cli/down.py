"""Stop everything that runs on the data folder."""

from __future__ import annotations

import shutil
import signal
import sys
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.embedded import processes
from tiebreak.embedded.binaries import Home
from tiebreak.embedded.children import TASKS_DRAIN_SECONDS
from tiebreak.embedded.record import stop_services
from tiebreak.embedded.state import holder
from tiebreak.errors import InvalidInput
from tiebreak.settings import Settings


class NotConfirmed(InvalidInput):
    """Nobody was there to confirm that all data shall be removed."""

    code = "not_confirmed"


def command(
    remove_data: Annotated[
        bool,
        typer.Option("--remove-data", help="Also remove database, keys and models for good."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking; for scripts.")] = False,
    json: JsonOption = False,
) -> None:
    """Stop everything that runs on the data folder, also what a killed start left behind.

    Example: `tiebreak down`
    """
    settings = Settings.load()
    out = Output(as_json=json)
    folder = settings.data_dir
    stopped: list[str] = []
    if remove_data and not yes and folder.exists():
        _confirm(out, settings)
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


def _confirm(out: Output, settings: Settings) -> None:
    """Ask on the terminal before anything is stopped or removed."""
    folder = settings.data_dir.absolute()
    if not sys.stdin.isatty() or out.as_json:
        raise NotConfirmed(hint=f"Add --yes to remove {folder} for good.", folder=str(folder))
    out.note(f"This removes {folder} for good: {_contents(settings)}.")
    if not typer.confirm("Remove it all?", err=True):
        raise NotConfirmed("Nothing was stopped or removed.")


def _contents(settings: Settings) -> str:
    """What a removal takes along, in words."""
    parts = {
        "the database with all tickets, decisions and the audit trail": settings.database.url,
        "the task queue": settings.redis.url,
    }
    inside = [part for part, address in parts.items() if address is None]
    return ", ".join([*inside, "keys", "models", "checkpoints"])
