"""`tiebreak backtest` as a person runs it, from the commands of the guide."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest
from tests.databases import DatabaseUrls
from tests.functional.places import ROOT, Place

from tiebreak.cli import exits
from tiebreak.ingest.simulator import simulate

HOWTO = ROOT / "docs" / "howto" / "backtest.md"
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
START = END - timedelta(days=200)
TICKETS = 400
RUN = ("backtest", "run", "locate", "--as", "ann", "--jobs", "1")


@pytest.fixture(scope="module")
def place(
    module_database_urls: DatabaseUrls, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """`locate` with a little simulated history and its rules in production."""
    folder = tmp_path_factory.mktemp("place")
    found = Place.made(folder, module_database_urls, valkey_url)
    by_ann = ("--as", "ann", "--reason", "first")
    found.json("workflow", "load", ROOT / "workflows" / "locate", *by_ann)
    tickets, events = simulate(3, TICKETS, START, 200).known_by(END).write(folder)
    found.json("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    found.json(
        *("release", "install", "locate", "--approved-by", "bob", "--model", "none", *by_ann)
    )
    return found


@pytest.fixture(scope="module")
def first(place: Place) -> str:
    """A finished backtest."""
    changed = ("--set", "points.high=34", "--set", "review_from=high", "--by", "ticket_type")
    told = place.json(*RUN, *changed)
    evidence = told["evidence"]
    assert evidence["figures"]["tickets"] == TICKETS
    assert evidence["figures"]["flips"] > 0
    assert evidence["baseline"]["recomputed"] == TICKETS
    assert told["run"]["author"] == "ann"
    journal = place.json("audit", "list", "--action", "backtest.finished")["entries"]
    assert [entry["actor"] for entry in journal] == ["ann"]
    assert evidence["policy_hash"] in json.dumps(journal)
    assert told["id"] in json.dumps(journal)
    return told["id"]


def test_a_backtest_is_listed_shown_and_drawn(place: Place, first: str) -> None:
    listed = place.json("backtest", "list")["backtests"]
    assert first in [each["id"] for each in listed]
    shown = place.json("backtest", "show", first[:10])
    assert shown in listed
    code, out, _ = place.run("backtest", "show", first)
    assert code == exits.OK
    for text in ("reviewer hours", "6 minutes a review", "critical before", "By ticket_type"):
        assert text in out
    page = place.folder / "report.html"
    place.json("backtest", "show", first, "--html", page)
    html = page.read_text()
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ET.fromstring(drawing)  # it is well-formed
    assert first in html
    assert not re.search(r"<script|src=|href=|https?://(?!www\.w3\.org)", html)


def test_a_report_holds_ids_and_no_contents(place: Place, first: str) -> None:
    text = json.dumps(place.json("backtest", "show", first))
    assert "SIM3-0" in text
    for content in ("Excavator ", "Caller ", "Street ", "[simulated]"):
        assert content not in text


def test_an_edited_folder_is_compared_with_changed_knobs(place: Place, first: str) -> None:
    folder = place.folder / "edited"
    shutil.copytree(ROOT / "workflows" / "locate", folder)
    rules = folder / "rules.yaml"
    rules.write_text(rules.read_text().replace("method = 'hand_dig'", "method = 'auger'"))
    examples = folder / "examples.yaml"
    examples.unlink()
    told = place.json(*RUN, "--workflow", folder)
    assert told["evidence"]["policy_hash"] != told["evidence"]["baseline"]["production"]
    compared = place.json("backtest", "compare", first, told["id"])
    assert compared["differences"] == []
    assert compared["figures"].keys() == {first, told["id"]}
    code, out, _ = place.run("backtest", "compare", first, told["id"])
    assert code == exits.OK
    assert "reviewer hours after" in out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "code"),
    [
        ((), 3, "nothing_changed"),
        (("--policy", "0123"), 4, "unknown_policy"),
        (("--policy", "0123", "--set", "points.high=40"), 3, "ambiguous_policy"),
        (("--bundle", "0123"), 4, "no_such_model"),
        (("--set", "points.high"), 3, "knob_unreadable"),
        (("--set", "points.hihg=40"), 3, "knob_mistaken"),
        (("--set", "points.high=5"), 3, "knob_mistaken"),
        (("--set", "points.high=40", "--by", "caller"), 3, "segment_unfit"),
        (("--set", "points.high=40", "--until", "1999-01-01"), 3, "window_beyond_history"),
        (
            ("--set", "points.high=40", "--since", "2024-02-01", "--until", "2024-01-01"),
            3,
            "window_empty",
        ),
        (("--workflow", str(ROOT / "workflows" / "boston311")), 3, "other_workflow"),
        (("--workflow", "nowhere"), 3, "mistaken_workflow"),
    ],
)
def test_what_cannot_be_run_is_told(
    place: Place, arguments: tuple[str, ...], exit_code: int, code: str
) -> None:
    assert place.json(*RUN, *arguments, code=exit_code)["error"]["code"] == code


def test_an_unknown_workflow_is_told(place: Place) -> None:
    arguments = ("backtest", "run", "locat", "--as", "ann", "--set", "points.high=40")
    error = place.json(*arguments, code=4)["error"]
    assert error["code"] == "unknown_workflow"
    assert "locate" in error["hint"]


def test_an_altered_file_is_no_evidence(place: Place, first: str) -> None:
    assert place.json("backtest", "show", "nothing", code=4)["error"]["code"] == "no_such_backtest"
    file = place.folder / "data" / "backtests" / f"{first}.json"
    whole = file.read_text()
    file.write_text(whole.replace('"newly_missed": 0', '"newly_missed": 1', 1))
    assert file.read_text() != whole
    try:
        error = place.json("backtest", "show", first, code=8)["error"]
        assert error["code"] == "altered_backtest"
    finally:
        file.write_text(whole)


def test_the_commands_of_the_guide_run(place: Place, first: str) -> None:
    block = re.findall(r"```sh\n(.*?)```", HOWTO.read_text(), re.DOTALL)[0].replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in block.splitlines() if line]
    assert len(lines) >= 4
    for words in lines:
        assert words[0] == "tiebreak"
        here = [str(place.folder / w) if w == "report.html" else w for w in words[1:]]
        if here[1] == "run":
            here += ["--as", "ann"]
        ids = [made["id"] for made in place.json("backtest", "list")["backtests"]]
        here = [{"ID": ids[0], "OTHER": ids[-1]}.get(word, word) for word in here]
        place.json(*here)
