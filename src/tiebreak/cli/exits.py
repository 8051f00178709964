"""One table from error family to exit code, and how an error is told to the person who ran us."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import orjson
import typer

from tiebreak.errors import (
    Conflict,
    IntegrityFailure,
    InvalidInput,
    NotAllowed,
    NotFound,
    TiebreakError,
    Unavailable,
)

OK: Final = 0
FAULT: Final = 1  # ours: the stack trace is for a bug report
USAGE: Final = 2  # the command line itself is wrong
EXIT_CODES: Final[tuple[tuple[type[TiebreakError], int], ...]] = (
    (InvalidInput, 3),
    (NotFound, 4),
    (Conflict, 5),
    (NotAllowed, 6),
    (Unavailable, 7),
    (IntegrityFailure, 8),
)
INTERRUPTED: Final = 130


def exit_code(error: TiebreakError) -> int:
    """The exit code of an error's family."""
    return next((code for family, code in EXIT_CODES if isinstance(error, family)), FAULT)


def run(application: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a command; errors of our families are told without a stack trace."""
    command = typer.main.get_command(application)
    try:
        command.main(args=list(arguments), prog_name="tiebreak", standalone_mode=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else OK
    except TiebreakError as error:
        _tell(error, as_json="--json" in arguments)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        sys.stderr.close()
        return OK
    return OK


def _tell(error: TiebreakError, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(orjson.dumps({"error": as_dict(error)}) + b"\n")
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.message))
    for problem in error.problems:
        console.print(Text(f"  • {problem}"))
    if error.hint:
        console.print(Text.assemble(("Next: ", "bold"), error.hint))


def as_dict(error: TiebreakError) -> dict[str, object]:
    """An error as plain data, the same shape for every command."""
    return {
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "problems": [problem.as_dict() for problem in error.problems],
        **error.fields,
    }
