"""The command line's frame: fast help, one exit code table, errors for people and as JSON."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import orjson
import pytest
import typer

from tiebreak import cli, errors
from tiebreak.cli import exits
from tiebreak.cli.output import Output
from tiebreak.workflows.versions import ReasonMissing


def tiebreak(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return called(arguments, environment)


def called(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TIEBREAK_", "DATABASE_"))}
    return subprocess.run(
        [sys.executable, "-c", "from tiebreak.cli import main; main()", *arguments],
        env={**clean, **environment},
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
    )


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from tiebreak import cli; cli.build(['--help']);"
        "heavy = {'polars', 'numba', 'sqlalchemy', 'asyncpg', 'fastapi', 'rich', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_lists_every_command() -> None:
    done = tiebreak("--help")
    assert done.returncode == exits.OK
    for name in cli.commands():
        assert f" {name} " in done.stdout


def test_help_of_a_group_lists_its_parts() -> None:
    done = tiebreak("release", "--help")
    assert done.returncode == exits.OK
    parts = cli.parts("release")
    assert "release install" in parts
    for name in parts:
        assert f" {name.removeprefix('release ')} " in done.stdout
    assert not {name for name in cli.commands() if "release-" in name}


def leaves(*words: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below these words, however deep, with the words that call it."""
    command: Any = typer.main.get_command(cli.build(words))
    for word in words:
        command = command.commands[word]
    parts = getattr(command, "commands", None)
    if parts is None:
        yield " ".join(words), command
        return
    for part in parts:
        yield from leaves(*words, part)


@pytest.mark.parametrize("name", cli.commands())
def test_every_command_has_help_with_an_example_of_itself(name: str) -> None:
    for words, command in leaves(name):
        example = (command.help or "").partition("Example: `")[2].partition("`")[0]
        assert f"tiebreak {words}" in example, words


def test_commands_are_found_however_deep_they_stand() -> None:
    found = {words for words, _ in leaves("release")}
    assert {"release list", "release propose", "release shadow start", "release canary step"} <= (
        found
    )


@pytest.mark.parametrize("name", cli.commands())
def test_every_reason_says_something(name: str) -> None:
    for _, command in leaves(name):
        for option in command.params:
            if option.name == "reason":
                assert option.process_value(typer.Context(command), "why") == "why"
                with pytest.raises(ReasonMissing):
                    option.process_value(typer.Context(command), " \t")


def test_a_blank_reason_is_invalid_input() -> None:
    done = tiebreak("release", "demote", "locate", "--reason", " ", "--json")
    assert done.returncode == 3
    assert orjson.loads(done.stdout)["error"]["code"] == "reason_missing"


def test_version() -> None:
    assert tiebreak("--version").stdout.startswith("tiebreak ")


@pytest.mark.parametrize(
    "arguments", [("nothing",), ("config", "nothing"), ("config", "check", "-x")]
)
def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    done = tiebreak(*arguments)
    assert done.returncode == exits.USAGE
    assert "Traceback" not in done.stderr
    assert "Next: `tiebreak" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--json"),
        ("keys", "list", "--nothing", "--json"),
        ("keys", "create", "--person", "a", "--role", "service", "--expires-days", "inf", "--json"),
        ("workflow", "show", "locate", "--version", "9" * 30, "--json"),
        ("audit", "list", "--since", "yesterday", "--json"),
        ("audit", "list", "--actor", "\udcff", "--json"),
        ("audit", "nothing", "--json"),
    ],
)
def test_a_wrong_command_line_is_one_json_document_with_json(arguments: tuple[str, ...]) -> None:
    done = tiebreak(*arguments)
    assert done.returncode == exits.USAGE
    error = orjson.loads(done.stdout)["error"]
    assert (error["code"], done.stderr) == ("usage", "")
    assert error["message"]
    assert error["hint"]


@pytest.mark.parametrize("name", cli.commands())
def test_every_number_has_two_ends(name: str) -> None:
    for words, command in leaves(name):
        for option in command.params:
            taken: Any = getattr(option, "type_descriptor", None)
            if taken is not None and taken.annotation in (int, float):
                bounds = (getattr(option, "min", None), getattr(option, "max", None))
                assert None not in bounds, f"{words} {option.name}"


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (("--help",), {}, exits.OK),
        (("config", "check", "--json"), {}, exits.OK),
        (("config", "check", "--json"), {"TIEBREAK_API__PORTT": "1"}, 3),
        (("nonsense", "--json"), {}, exits.USAGE),
    ],
)
def test_a_reader_that_has_had_enough_is_no_fault(
    arguments: tuple[str, ...], environment: dict[str, str], code: int
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = called(arguments, environment, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, "")


def test_an_error_that_nobody_reads_keeps_its_exit_code() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = called(["nonsense"], {}, stderr=writing)
    os.close(writing)
    assert done.returncode == exits.USAGE


@pytest.mark.parametrize("is_json", [False, True])
def test_a_fault_of_ours_is_told_with_its_trace(
    is_json: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    application = typer.Typer(pretty_exceptions_enable=False)

    @application.command()
    def broken(json: bool = False) -> None:
        raise ZeroDivisionError(json)

    assert exits.run(application, ["--json"] if is_json else []) == exits.FAULT
    captured = capfd.readouterr()
    assert "ZeroDivisionError" in captured.err
    if is_json:
        assert orjson.loads(captured.out)["error"]["code"] == "fault"
    else:
        assert "Next: Report it" in captured.err


def test_help_tells_every_exit_code() -> None:
    told = " ".join(tiebreak("--help").stdout.split())
    for family, code in exits.EXIT_CODES:
        assert f"{code} {family.code.replace('_', ' ')}" in told


def test_a_mistake_is_told_without_a_stack_trace() -> None:
    done = tiebreak("config", "check", TIEBREAK_API__PORT="many", TIEBREAK_LOG_LEVEL="info")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr + done.stdout
    assert "TIEBREAK_API__PORT" in done.stderr
    assert "Next:" in done.stderr
    assert done.stdout == ""


def test_a_mistake_is_one_json_document_with_json() -> None:
    done = tiebreak("config", "check", "--json", TIEBREAK_API__PROT="1")
    assert done.returncode == 3
    error = orjson.loads(done.stdout)["error"]
    assert (error["code"], error["problems"][0]["where"]) == (
        "settings_invalid",
        "TIEBREAK_API__PROT",
    )
    assert done.stderr == ""


def test_unknown_variables_are_named_with_the_nearest() -> None:
    done = tiebreak("config", "check", TIEBREAK_API_PORT="1")
    assert "Did you mean TIEBREAK_API__PORT?" in done.stderr


def test_half_of_the_database_addresses_is_a_mistake() -> None:
    done = tiebreak("config", "check", DATABASE_URL="postgresql://user:SECRET@host/x")
    assert "DATABASE_OWNER_URL" in done.stderr
    assert "SECRET" not in done.stderr + done.stdout


def test_config_check_prints_redacted_settings() -> None:
    environment = {
        "DATABASE_URL": "postgresql://user:SECRET@host/x",
        "DATABASE_OWNER_URL": "postgresql://owner:SECRET@host/x",
    }
    for arguments in (("config", "check"), ("config", "check", "--json")):
        done = tiebreak(*arguments, **environment)
        assert done.returncode == exits.OK
        assert "SECRET" not in done.stderr + done.stdout
        assert "**" in done.stdout


@pytest.mark.parametrize(
    "family",
    [
        errors.InvalidInput,
        errors.NotFound,
        errors.Conflict,
        errors.NotAllowed,
        errors.Unavailable,
        errors.IntegrityFailure,
    ],
)
def test_each_family_has_its_own_exit_code(family: type[errors.TiebreakError]) -> None:
    class Special(family):  # type: ignore[misc,valid-type]
        """Special."""

    codes = [code for _, code in exits.EXIT_CODES]
    assert len(set(codes)) == len(codes)
    assert exits.exit_code(Special()) == dict(exits.EXIT_CODES)[family]
    assert exits.exit_code(Special()) not in {exits.OK, exits.FAULT, exits.USAGE}


def test_results_go_to_standard_output_and_notes_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.note("working")
    out.result({"a": 1}, "for people")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("for people\n", "working\n")
