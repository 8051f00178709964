"""Training reports: plain verdicts for each way a comparison can end; foreign text stays text."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tiebreak.report.documents import html, markdown
from tiebreak.training.reports import sections, title_of
from tiebreak.training.verdict import verdict

EVIL = "<b>|&'\"_*"


def figure(value: float, spread: float = 0.01) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def contender(name: str, kind: str, pr_auc: float) -> dict[str, Any]:
    figures = {name: figure(pr_auc) for name in ("pr_auc", "auc", "recall", "calibration_error")}
    figures["score_less_rate"] = figure(0.0)
    times = ("score_one_us", "score_batch_us_a_row", "explain_batch_us_a_row")
    costs = dict.fromkeys((*times, "bytes"), 10.0)
    return {
        "name": name,
        "kind": kind,
        "figures": figures,
        "costs": {**costs, "trees": 5.0},
        "calibration": [[0.5, 0.4], [0.1, 0.1]],
        "recall_curve": [[0.0, 0.0], [1.0, 1.0]],
    }


def report(rules: float = 0.2, other: float = 0.01, slice_recall: float = 0.5) -> dict[str, Any]:
    """`xgboost` was bundled; by how much it is better than the rules and than `lightgbm`."""
    data = {
        "workflow": "locate",
        "workflow_version": "v" * 64,
        "snapshot": "s" * 64,
        "bundled": "xgboost",
        "validation": {
            "rows": 1_234_567,
            "positives": 12_345,
            "base_rate": 0.01,
            "since": "2026-01-01",
            "until": "2026-02-01",
            "days": 31.0,
        },
        "capacity": {"share": 0.1, "reviews_a_day": 40.0},
        "tuning": {"xgboost": {"trials": 3, "pruned": 1, "pr_auc": 0.5}},
        "left_out": {"ebm": "the extra `ebm` is not installed"},
        "contenders": [
            contender("xgboost", "served", 0.5),
            contender("lightgbm", "served", 0.5 - other),
            contender("linear", "yardstick", 0.4),
            contender("ensemble", "yardstick", 0.5),
            contender("rules", "rules", 0.5 - rules),
        ],
        "against": {
            "lightgbm": figure(other),
            "linear": figure(0.1),
            "ensemble": figure(0.0),
            "rules": figure(rules),
        },
        "slices": {
            "city": [
                {
                    "value": EVIL,
                    "rows": 500,
                    "positives": 50,
                    "figures": {
                        name: figure(slice_recall)
                        for name in ("auc", "recall", "needless", "score_less_rate")
                    },
                }
            ]
        },
        "leakage_waived": {"depth": EVIL},
    }
    return data | {"verdict": verdict(data)}


@pytest.mark.parametrize(
    ("rules", "is_worth", "words"),
    [
        (0.2, True, "Use xgboost"),
        (0.0, False, "not to be told from the rules alone"),
        (-0.2, False, "worse than the rules alone"),
    ],
)
def test_a_model_that_is_not_better_than_the_rules_is_not_to_be_served(
    rules: float, is_worth: bool, words: str
) -> None:
    told = report(rules)["verdict"]
    assert (told["is_worth_serving"], told["use"] == "xgboost") == (is_worth, is_worth)
    assert words in told["said"][0]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (0.1, "xgboost ranks better than lightgbm"),
        (0.0, "lightgbm is as good within chance"),
        (-0.1, "try `--family lightgbm`"),
    ],
)
def test_families_are_told_apart_only_where_it_is_not_chance(other: float, words: str) -> None:
    assert any(words in sentence for sentence in report(other=other)["verdict"]["said"])


def test_the_linear_yardstick_cannot_be_served_and_what_can_is_named() -> None:
    data = report()
    for ahead in (0.1, 0.0, -0.1):
        data["against"]["linear"] = figure(ahead)
        (told,) = (s for s in verdict(data)["said"] if s.startswith("The linear yardstick"))
        assert "It cannot be served; of the families that can, xgboost ranks best here." in told


def test_who_is_left_out_or_was_not_searched_is_named() -> None:
    data = report()
    said = verdict(data)["said"]
    assert "ebm was not compared: the extra `ebm` is not installed." in said
    (told,) = (s for s in said if s.startswith("Parameters were searched"))
    assert "of xgboost by 3 trials; lightgbm, linear took them as given" in told
    said = verdict({**data, "left_out": {}, "tuning": {}})["said"]
    assert not any("not compared" in s or "searched" in s for s in said)


@pytest.mark.parametrize(
    ("gap", "words"), [(0.2, "too high"), (-0.2, "too low"), (0.005, None), (0.015, None)]
)
def test_scores_that_are_no_probabilities_are_named(gap: float, words: str | None) -> None:
    data = report()
    data["contenders"][0]["figures"]["score_less_rate"] = figure(gap)
    said = [s for s in verdict(data)["said"] if s.startswith("Of xgboost in all")]
    assert len(said) == (words is not None)
    assert all(words is not None and words in sentence for sentence in said)


def test_a_group_for_which_less_is_caught_is_named() -> None:
    worse = report(slice_recall=0.3)["verdict"]["said"]
    assert any("fewer bad ends are caught" in sentence for sentence in worse)
    as_good = report(slice_recall=0.5)["verdict"]["said"]
    assert not any("fewer bad ends are caught" in sentence for sentence in as_good)


def test_foreign_text_stays_text_and_drawings_are_well_formed() -> None:
    told = report()
    page = html(title_of(told), sections(told))
    assert EVIL not in page
    assert "1,234,567" in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(drawing)
    files = markdown(title_of(told), sections(told), "report")
    text = files.pop("report.md")
    assert EVIL not in text
    assert len(files) == 4
    for name, drawing in files.items():
        assert f"({name})" in text
        ET.fromstring(drawing)
