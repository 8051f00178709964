"""Reports: large numbers are whole, foreign text stays text, drawings are well-formed."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from tiebreak.backtest import report
from tiebreak.backtest.evidence import Backtest
from tiebreak.backtest.flips import Cells
from tiebreak.backtest.outcomes import change, figures

EVIL = "<b>&'\""


def backtest(value: str) -> Backtest:
    """A backtest of 2,345,678 tickets that all went from auto to review."""
    told = figures(Cells({6: 2_345_678}), minutes_a_review=7.5)
    whole = {**told, "ties": change([3, 1_000]), "cost": change([10, 20])}
    window = {"since": "2026-01-01T00:00:00", "until": "2026-02-01T00:00:00"}
    evidence = {
        "workflow": "locate",
        "policy_hash": "a" * 64,
        "policy": {"rules_version": "new"},
        "baseline": {"production": None, "policy": None, "stored": 2_345_678, "recomputed": 0},
        "window": window,
        "known_by": "2026-03-01T00:00:00",
        "context": "stored",
        "fingerprint": "f",
        "minutes_a_review": 7.5,
        "label": "late",
        "skipped": {},
        "erased_in_history": 0,
        "expression_errors": {},
        "figures": whole,
        "before_valid_from": 12,
        "months": [{"value": name, **told} for name in ("2026-01", "2026-02")],
        "segments": {"town": [{"value": value, **told}]},
        "examples": {},
    }
    return Backtest("c" * 64, evidence, {})


def test_large_numbers_are_shown_whole() -> None:
    made = backtest("town 1")
    rows = dict(report.figure_rows(made))
    assert rows["reviews"] == "0 → 2,345,678 (+2,345,678)"
    assert rows["reviewer hours"] == "0.0 → 293,209.75 (+293,209.75)"
    assert rows["tiebreak calls"] == "0 → 0 (+0)"
    assert rows["ties"] == "3 → 1,000 (+997)"
    assert rows["cost"] == "10 → 20 (+10)"
    assert dict(report.subject_rows(made))["the model may have learnt from"] == "12 of them"
    assert "2,345,678" in report.html(made)
    assert ["reviews after", "2,345,678", "2,345,678", "+0"] in report.comparison(made, made)
    assert report.differences(made, made) == []


def test_foreign_text_stays_text() -> None:
    html = report.html(backtest(EVIL))
    assert EVIL not in html
    assert "&lt;b&gt;" in html
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ET.fromstring(drawing)
