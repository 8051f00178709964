"""The command line `tiebreak`: one module of this package a command or command group.

A module gives either a function `command` or a Typer application `app` for a group; the first
line of its docstring is its line in `tiebreak --help`. A group grows by modules named after it:
`release_canary.py` gives `release canary`, by the same rules. Only the module of the
command that is called is imported, so that help is fast and one command's libraries do not slow
another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

FRAME = frozenset({"__init__", "changes", "output", "reasons", "exits", "session"})
_FOLDER = Path(__file__).parent


def main() -> None:
    """Run the command line and exit with a code of the table in `cli.exits`."""
    from tiebreak.cli.exits import run

    arguments = sys.argv[1:]
    sys.exit(run(build(arguments), arguments))


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application with every command named, and the called one loaded."""
    from tiebreak.cli.exits import EXITS

    application = typer.Typer(
        name="tiebreak",
        epilog=EXITS,
        help="Score work tickets for risk: rules, a model, and a tie-break where they disagree.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_global_options)
    _attach_called(application, commands(), [w for w in arguments if not w.startswith("-")])
    return application


def commands() -> list[str]:
    """The names of all commands, sorted."""
    return sorted(_name(stem) for stem in _stems() if _group_of(stem) is None)


def parts(group: str) -> list[str]:
    """The commands of a group that have modules of their own, as `group part`, sorted."""
    return sorted(_name(stem) for stem in _stems() if _group_of(stem) == group)


def module_of(name: str) -> ModuleType:
    """The module of a command, or of a part of a group."""
    return import_module(f"tiebreak.cli.{_stem(name)}")


def _stems() -> set[str]:
    return {path.stem for path in _FOLDER.glob("*.py")} - FRAME


def _group_of(stem: str) -> str | None:
    """The group that a module is a part of; None: it stands for itself."""
    group = stem.partition("_")[0]
    return group if group != stem and group in _stems() else None


def _name(stem: str) -> str:
    """A module's words on the command line."""
    group = _group_of(stem)
    if group is None:
        return stem.replace("_", "-")
    return f"{group} {stem.removeprefix(f'{group}_').replace('_', '-')}"


def _stem(name: str) -> str:
    return name.replace(" ", "_").replace("-", "_")


def _attach_called(parent: typer.Typer, names: Sequence[str], words: Sequence[str]) -> None:
    """Attach these commands, that of the first word with all it needs, the others by name."""
    for name in names:
        word = name.rpartition(" ")[2]
        if words[:1] == [word]:
            _attach(parent, name, word, words[1:])
        else:
            parent.command(word, help=_summary(name))(_not_called)


def _attach(parent: typer.Typer, name: str, word: str, rest: Sequence[str]) -> None:
    module = module_of(name)
    app: typer.Typer | None = getattr(module, "app", None)
    if app is None:
        command: Callable[..., None] = module.command
        parent.command(word)(command)
        return
    group = typer.Typer()
    group.registered_callback = app.registered_callback
    group.registered_commands = list(app.registered_commands)
    _attach_called(group, parts(name), rest)
    parent.add_typer(group, name=word, help=_summary(name), no_args_is_help=True)


def _summary(name: str) -> str:
    """The first line of a command module's docstring, read without importing the module."""
    source = (_FOLDER / f"{_stem(name)}.py").read_text()
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
