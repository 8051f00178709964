"""`tiebreak workflow` as a person runs it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.databases import DatabaseUrls, execute, run

from tiebreak import cli
from tiebreak.cli import exits

BOSTON = Path("workflows/boston311").resolve()
HOWTO = Path("docs/howto/write-a-workflow.md").resolve()
KEY = "00112233445566778899aabbccddeeff" * 2


@dataclass(frozen=True)
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def tiebreak(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `tiebreak workflow …` in this process, with no more environment than a test gives."""
    for name in os.environ:
        if name.startswith(("TIEBREAK_", "DATABASE_")):
            monkeypatch.delenv(name)

    def called(*arguments: str) -> Done:
        words = ["workflow", *arguments]
        capsys.readouterr()
        code = exits.run(cli.build(words), words)
        told = capsys.readouterr()
        return Done(code, told.out, told.err)

    return called


@pytest.fixture
def stored(database_urls: DatabaseUrls, tiebreak: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs commands against a database in which ann is registered."""
    run(
        execute(
            database_urls.admin,
            "INSERT INTO persons (person, created_at, created_by) VALUES ('ann', now(), 'test')",
        )
    )
    environment = {
        "DATABASE_URL": database_urls.app,
        "TIEBREAK_KEYS__SEAL_KEY_ID": "k1",
        "TIEBREAK_KEYS__SEAL": orjson.dumps({"k1": KEY}).decode(),
        "TIEBREAK_KEYS__BUNDLE_SIGNING_KEY_ID": "k1",
        "TIEBREAK_KEYS__BUNDLE": orjson.dumps({"k1": KEY}).decode(),
        "TIEBREAK_KEYS__ENTITY": KEY,
        "TIEBREAK_KEYS__SAMPLING": KEY,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return tiebreak


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "boston311"
    shutil.copytree(BOSTON, copy)
    return copy


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def json_of(done: Done) -> Any:
    return orjson.loads(done.stdout)


def test_a_sound_workflow_is_told_so(tiebreak: Run) -> None:
    done = tiebreak("check", str(BOSTON))
    assert done.returncode == exits.OK, done.stderr
    assert "boston311 is sound" in done.stdout
    assert "Training learns the words of: description_words, other_words." in done.stdout
    told = json_of(tiebreak("check", str(BOSTON), "--json"))
    assert told["workflow"] == "boston311"
    assert told["unfired_rules"] == []
    assert told["text_features"] == 2


def test_mistakes_are_told_with_file_line_and_suggestion(tiebreak: Run, folder: Path) -> None:
    change(folder / "rules.yaml", "says_needle\n", "says_neddle\n")
    change(folder / "workflow.yaml", "time: opened_at", "time: opend_at")
    done = tiebreak("check", str(folder))
    assert done.returncode == 3
    assert done.stdout == ""
    assert "2 mistakes" in done.stderr
    assert re.search(r"rules\.yaml:3:11: .*says_neddle.*did you mean `says_needle`\?", done.stderr)
    assert "workflow.yaml:7:7: unknown field `opend_at` (did you mean `opened_at`?)" in done.stderr
    told = json_of(tiebreak("check", str(folder), "--json"))
    assert [p["where"] for p in told["error"]["problems"]] == [
        "rules.yaml:3:11",
        "workflow.yaml:7:7",
    ]


def test_rules_that_no_example_fires_are_named(tiebreak: Run, folder: Path) -> None:
    (folder / "examples.yaml").write_text("examples: []\n")
    done = tiebreak("check", str(folder))
    assert done.returncode == exits.OK
    assert "No example fires: needles, live-wires" in done.stdout


def test_load_list_show_and_knobs(stored: Run, folder: Path) -> None:
    first = json_of(stored("load", str(folder), "--reason", "start", "--as", "ann", "--json"))
    assert (first["ordinal"], first["is_new"], first["author"]) == (1, True, "ann")
    again = stored("load", str(folder), "--reason", "again", "--as", "ann")
    assert "boston311 is version 1, as before" in again.stdout
    change(folder / "workflow.yaml", "audit_share: 0.01", "audit_share: 0.02")
    second = stored("load", str(folder), "--reason", "see more", "--as", "ann")
    assert "boston311 is version 2." in second.stdout
    assert "Knobs set: audit_share" in second.stdout

    listed = json_of(stored("list", "--json"))["workflows"]
    assert [(w["workflow"], w["ordinal"]) for w in listed] == [("boston311", 2)]
    shown = json_of(stored("show", "boston311", "--version", "1", "--json"))
    assert shown["config"]["knobs"]["audit_share"] == 0.01
    assert [v["ordinal"] for v in shown["versions"]] == [2, 1]
    assert "Abandoned vehicles need a notice" in stored("show", "boston311").stdout
    told = stored("knobs", "boston311", "--knob", "audit_share").stdout
    assert "see more" in told
    assert told.index("0.02") < told.index("0.01")


def test_a_mistaken_workflow_is_not_loaded(stored: Run, folder: Path) -> None:
    change(folder / "rules.yaml", "says_needle\n", "says_neddle\n")
    done = stored("load", str(folder), "--reason", "start", "--as", "ann")
    assert done.returncode == 3
    assert json_of(stored("list", "--json")) == {"workflows": []}


def test_only_known_persons_load(stored: Run) -> None:
    done = stored("load", str(BOSTON), "--reason", "start", "--as", "anne")
    assert done.returncode == 4
    assert "did you mean `ann`?" in done.stderr


def test_a_workflow_that_is_not_loaded(stored: Run) -> None:
    assert stored("show", "boston311").returncode == 4
    assert stored("knobs", "boston311").returncode == 4


def test_the_workflow_of_the_howto_is_sound(tiebreak: Run, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", HOWTO.read_text(), re.DOTALL)
    names = ("workflow", "features", "rules", "examples")
    assert len(blocks) == len(names)
    for name, block in zip(names, blocks, strict=True):
        (tmp_path / f"{name}.yaml").write_text(block)
    done = tiebreak("check", str(tmp_path))
    assert done.returncode == exits.OK, done.stderr
