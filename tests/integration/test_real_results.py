"""The figures of docs/results.md: its tables are those of the results, real tickets give them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from bench.real import STORIES, missing, tell_all, without_words
from bench.real_tables import DOCUMENT, RESULTS, filled

from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TIEBREAK_REAL_DATA", ROOT.parent / "shared" / "data"))
NAMES = [story.workflow for story in STORIES]
CLOSE = 0.003  # other processors add in another order
CLOSE_OF_TENTH = 0.02  # and a tenth of the tickets changes some of its own


def test_the_tables_are_those_of_the_results() -> None:
    document = DOCUMENT.read_text()
    assert filled(document, json.loads(RESULTS.read_text())) == document
    assert all(f" of {name} -->" in document for name in NAMES)


def test_a_table_that_was_edited_is_found() -> None:
    results = json.loads(RESULTS.read_text())
    edited = DOCUMENT.read_text().replace("| AUC | 0.", "| AUC | 1.", 1)
    assert filled(edited, results) != edited


@pytest.mark.parametrize("name", [story.workflow for story in STORIES if story.has_text])
def test_without_words_a_workflow_is_sound_and_the_same_otherwise(
    name: str, tmp_path: Path
) -> None:
    whole, rules = check_folder(ROOT / "workflows" / name).sound()
    without_words(ROOT / "workflows" / name, tmp_path / "plain")
    plain, same_rules = check_folder(tmp_path / "plain").sound()
    assert rules == same_rules
    left = [f for f in whole.features if getattr(f, "kind", None) != "text"]
    assert list(plain.features) == left
    assert len(left) < len(whole.features)


def test_both_questions_are_asked_of_the_same_tickets() -> None:
    slow, violation = (check_folder(ROOT / "workflows" / name).sound()[0] for name in NAMES[:2])
    assert slow.fields == violation.fields
    assert slow.calendar == violation.calendar


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    assert missing(tmp_path, ["itsm"]) == [str(tmp_path / "itsm" / "incidents.parquet")]


@pytest.mark.full
@pytest.mark.timeout(10_800)  # an hour on two cores that a score of other processes use
@pytest.mark.skipif(
    bool(missing(DATA, NAMES)),
    reason=f"REAL DATA MISSING: not all of it is in {DATA}; set TIEBREAK_REAL_DATA to where it is",
)
@pytest.mark.parametrize("name", NAMES)
def test_real_tickets_give_the_figures_of_the_document(name: str) -> None:
    found = tell_all(DATA, [name], lambda _line: None)[name]
    told = json.loads(RESULTS.read_text())[name]
    assert found["decided"] == told["decided"]
    assert found["trained"]["rows"] == told["trained"]["rows"]
    assert found["replayed"]["identical"] == found["replayed"]["replayed"] > 0
    assert found["verified"] > found["decided"]
    for of in ("model", "rules", "difference"):
        _check_figures(found["assessed"]["figures"][of], told["assessed"]["figures"][of], of)
    again, before = (each["assessed"]["model"]["calibration"] for each in (found, told))
    assert len(again) == len(before)
    for tenth, (one, other) in enumerate(zip(again, before, strict=True), 1):
        for name in ("mean_score", "positive_rate"):
            assert one[name] == pytest.approx(other[name], abs=CLOSE_OF_TENTH), (tenth, name)
    assert (found["text"] is None) == (told["text"] is None)
    for which in ("with", "without") if told["text"] else ():
        one, other = (each["text"][which] for each in (found, told))
        assert one["tickets"] == other["tickets"]
        for of in ("figures", "difference"):
            _check_figures(one[of], other[of], f"{of} {which} text")


def _check_figures(found: Mapping[str, Any], told: Mapping[str, Any], of: str) -> None:
    for figure, value in told.items():
        assert found[figure] == pytest.approx(value, abs=CLOSE), (of, figure)
