"""The documents hold: links lead somewhere, and every command they name exists as written."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from tiebreak.cli import build
from tiebreak.core.tickets import Submission, parse_submission, ticket_schema
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]+\]\((?!https?:|#)([^)#\s]+)")
SHELL_BLOCK = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:tiebreak|make) [^`]+)`")


def commands_of(text: str) -> list[list[str]]:
    """Every `tiebreak …` or `make …` that a document tells its reader to run."""
    blocks = [block.replace("\\\n", " ") for block in SHELL_BLOCK.findall(text)]
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [found.replace("\n", " ") for found in INLINE.findall(text)]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [w for w in words if len(w) > 1 and w[0] in ("tiebreak", "make")]


def command_mistake(words: list[str]) -> str | None:
    """What is wrong with a command line of ours; None when it could be run."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [w for w in words[1:] if "=" not in w and w not in targets]
        return f"no target {unknown}" if unknown else None
    command = typer.main.get_command(build(words[1:]))
    rest = words[1:]
    while isinstance(command, click.Group) or hasattr(command, "commands"):
        if not rest or rest[0].startswith("-"):
            return None
        found = command.commands.get(rest[0])
        if found is None:
            return f"no command {rest[0]!r}"
        command, rest = found, rest[1:]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    unknown = [w for w in rest if re.match(r"--?[a-z]", w) and w.split("=")[0] not in known]
    return f"no option {unknown}" if unknown and "…" not in rest else None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = [
        link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_exists_as_written(document: Path) -> None:
    mistakes = {
        " ".join(words): mistake
        for words in commands_of(document.read_text())
        if (mistake := command_mistake(words)) is not None
    }
    assert mistakes == {}


def test_every_command_that_a_hint_names_exists_as_written() -> None:
    mistakes = {
        f"{path.name}: {' '.join(words)}": mistake
        for path in sorted((ROOT / "src").rglob("*.py"))
        for words in hinted(path.read_text())
        if (mistake := command_mistake(words)) is not None
    }
    assert mistakes == {}


def hinted(source: str) -> list[list[str]]:
    """The commands in the texts of a module; those whose words are not all plain are cut there."""
    texts = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    inner = {id(part) for text in texts if isinstance(text, ast.JoinedStr) for part in text.values}
    lines = [
        found.replace("\n", " ")
        for text in texts
        if id(text) not in inner
        for found in INLINE.findall(written(text))
    ]
    return [words for words in map(shlex.split, lines) if len(words) > 1]


def written(text: ast.JoinedStr | ast.Constant) -> str:
    """A text as it is told, with VALUE for what is filled in."""
    if isinstance(text, ast.Constant):
        return text.value if isinstance(text.value, str) else ""
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in text.values
    )


@pytest.mark.parametrize(
    "line",
    ["tiebreak nonsense", "tiebreak up --nonsense", "tiebreak keys nonsense", "make nonsense"],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    assert command_mistake(shlex.split(line)) is not None


def test_the_example_ticket_is_one_the_workflow_takes() -> None:
    workflow = check_folder(ROOT / "workflows" / "locate").sound()[0]
    body = (ROOT / "docs" / "examples" / "locate-ticket.json").read_bytes()
    assert isinstance(parse_submission(ticket_schema(workflow), body), Submission)
