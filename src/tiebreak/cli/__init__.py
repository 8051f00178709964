"""The command line: `tiebreak COMMAND`, one module of this package a command or command group.

A module gives either a function `command` or a Typer application `app` for a group; the first
line of its docstring is its line in `tiebreak --help`. Only the module of the command that is
called is imported, so that help is fast and one command's libraries do not slow another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

FRAME = frozenset({"__init__", "output", "exits", "session"})
_FOLDER = Path(__file__).parent


def main() -> None:
    """Run the command line and exit with a code of the table in `cli.exits`."""
    from tiebreak.cli.exits import run

    arguments = sys.argv[1:]
    sys.exit(run(build(arguments), arguments))


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application with every command named, and the called one loaded."""
    application = typer.Typer(
        name="tiebreak",
        help="Score work tickets for risk: rules, a model, and a tie-break where they disagree.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_global_options)
    called = next((word for word in arguments if not word.startswith("-")), None)
    for name in commands():
        if name == called:
            _attach(application, name)
        else:
            application.command(name, help=_summary(name))(_not_called)
    return application


def commands() -> list[str]:
    """The names of all commands, sorted."""
    stems = {path.stem for path in _FOLDER.glob("*.py")} - FRAME
    # `release_shadow` holds a group within the group `release`, which attaches it.
    return sorted(
        stem.replace("_", "-") for stem in stems if stem.partition("_")[0] not in stems - {stem}
    )


def _attach(application: typer.Typer, name: str) -> None:
    module = import_module(f"tiebreak.cli.{name.replace('-', '_')}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is not None:
        application.add_typer(group, name=name, help=_summary(name), no_args_is_help=True)
        return
    command: Callable[..., None] = module.command
    application.command(name)(command)


def _summary(name: str) -> str:
    """The first line of a command module's docstring, read without importing the module."""
    source = (_FOLDER / f"{name.replace('-', '_')}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        sys.stdout.write(f"tiebreak {version('tiebreak')}\n")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=_print_version,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""


def _not_called() -> None:
    """Stands for a command in the list of commands."""
