"""Write everything of the data folder into one file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.embedded import backups
from tiebreak.embedded.stack import stack
from tiebreak.settings import Settings


def command(
    file: Annotated[Path, typer.Argument(help="Where to write it; the file must be new.")],
    json: JsonOption = False,
) -> None:
    """Write database, models, backtests and secrets into one file, while deciding goes on.

    Who has the file has the keys: keep it as you keep those.

    Example: `tiebreak backup tiebreak.tar`
    """
    output = Output(as_json=json)
    with stack(Settings.load()) as services, output.progress("Backup"):
        made = backups.write(services, file)
    size = file.stat().st_size
    output.result(
        {**asdict(made), "file": str(file), "bytes": size}, f"Written: {file}, {size:,} bytes."
    )
    output.note("It holds the keys: keep it where only you read it.")
