"""One table from error family to exit code, and how an error is told to the person who ran us."""

from __future__ import annotations

import os
import sys
import traceback
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


class Misused(InvalidInput):
    """The command line is wrong."""

    code = "usage"


class Fault(TiebreakError):
    """Tiebreak met something that it does not foresee; this is its own fault."""

    code = "fault"


OK: Final = 0
FAULT: Final = 1  # ours: the stack trace is for a bug report
USAGE: Final = 2  # the command line itself is wrong
EXIT_CODES: Final[tuple[tuple[type[TiebreakError], int], ...]] = (
    (Misused, USAGE),
    (InvalidInput, 3),
    (NotFound, 4),
    (Conflict, 5),
    (NotAllowed, 6),
    (Unavailable, 7),
    (IntegrityFailure, 8),
)
INTERRUPTED: Final = 130

EXITS: Final = "Exit codes: 0 done, 1 our fault, " + ", ".join(
    [
        *(f"{code} {family.code.replace('_', ' ')}" for family, code in EXIT_CODES),
        f"{INTERRUPTED} interrupted",
    ]
)


def exit_code(error: TiebreakError) -> int:
    """The exit code of an error's family."""
    return next((code for family, code in EXIT_CODES if isinstance(error, family)), FAULT)


def run(application: typer.Typer, arguments: Sequence[str]) -> int:
    """Run a command; only faults of our own are told with a stack trace."""
    as_json = "--json" in arguments
    try:
        _invoke(application, arguments)
    except typer.Exit as ended:
        return ended.exit_code
    except typer.TyperException as error:
        if error.format_message():  # empty where the help was shown instead
            _tell(_misused(error), as_json=as_json)
        return USAGE
    except TiebreakError as error:
        _tell(error, as_json=as_json)
        return exit_code(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as ended:
        if not _has_had_enough(ended):
            raise
        return OK
    except BrokenPipeError:
        _hang_up()
        return OK
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        traceback.print_exc()
        _tell(Fault(hint="Report it, with the stack trace on standard error."), as_json=as_json)
        return FAULT
    return OK


def _invoke(application: typer.Typer, arguments: Sequence[str]) -> None:
    """Run the command as Typer's own `main` does, save that it hides closed pipes as faults."""
    for argument in arguments:
        if not argument.isascii():
            _check_utf8(argument)
    command = typer.main.get_command(application)
    with command.make_context("tiebreak", list(arguments)) as context:
        command.invoke(context)


def _check_utf8(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        shown = argument.encode(errors="replace").decode()
        raise Misused(f"The argument {shown!r} is not UTF-8.", hint="Write it in UTF-8.") from None


def _misused(error: typer.TyperException) -> Misused:
    """A mistake that Typer found, with the command whose help goes on from there."""
    context = getattr(error, "ctx", None)
    called = "tiebreak" if context is None else context.command_path
    return Misused(error.format_message(), hint=f"`{called} --help` shows what it takes.")


def _has_had_enough(ended: SystemExit) -> bool:
    """Whether it ends because its reader, such as `head`, has gone: so Rich ends on such a pipe."""
    return isinstance(ended.__context__, BrokenPipeError)


def _hang_up() -> None:
    """Write nothing more to a reader that has gone, at the end of the process neither."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _tell(error: TiebreakError, *, as_json: bool) -> None:
    """Tell the error; who no longer listens still gets its exit code."""
    try:
        if as_json:
            sys.stdout.buffer.write(orjson.dumps({"error": as_dict(error)}) + b"\n")
            sys.stdout.buffer.flush()
        else:
            _tell_people(error)
    except BrokenPipeError:
        _hang_up()
    except SystemExit as ended:
        if not _has_had_enough(ended):
            raise


def _tell_people(error: TiebreakError) -> None:
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
