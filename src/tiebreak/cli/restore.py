"""Make a new data folder what was backed up."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.embedded import backups
from tiebreak.settings import Settings


def command(
    file: Annotated[Path, typer.Argument(help="A file that `tiebreak backup` wrote.")],
    json: JsonOption = False,
) -> None:
    """Make a data folder that has nothing yet what was backed up.

    Example: `tiebreak restore tiebreak.tar`
    """
    output, settings = Output(as_json=json), Settings.load()
    with output.progress("Restoring"):
        made = backups.restore(settings, file)
    output.result(
        {**asdict(made), "data_dir": str(settings.data_dir)},
        f"{settings.data_dir} is as it was at {made.created_at}.",
    )
    output.note("Next: `tiebreak audit verify`, then `tiebreak up`")
