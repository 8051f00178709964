"""The tables of `docs/results.md`, written from `docs/results.json` between their marks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
RESULTS, DOCUMENT = DOCS / "results.json", DOCS / "results.md"
_MARKED = re.compile(r"(<!-- (\w+) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIGURES = ("auc", "pr_auc", "brier")
_TITLES = ("AUC", "PR-AUC", "Brier score")

Told = Mapping[str, Any]


def rewrite() -> None:
    """Put the tables of the results into the document."""
    results = json.loads(RESULTS.read_text())
    DOCUMENT.write_text(filled(DOCUMENT.read_text(), results))


def filled(document: str, results: Told) -> str:
    """The document with what the results say between its marks; without results they stay."""

    def part(found: re.Match[str]) -> str:
        begin, kind, name, end = found.groups()
        if name not in results or (kind == "text" and results[name]["text"] is None):
            return found.group()
        return f"{begin}\n{_TABLES[kind](results[name])}\n\n{end}"

    return _MARKED.sub(part, document)


def _figures(told: Told) -> str:
    assessed = told["assessed"]
    model, by = assessed["model"], assessed["figures"]
    rows = [
        [title, *(_interval(by[of][name]) for of in ("model", "rules", "difference"))]
        for name, title in zip(_FIGURES, _TITLES, strict=True)
    ]
    said = (
        f"{model['rows']:,} decisions with a known end, {model['positives']:,} bad ones "
        f"({model['base_rate']:.3f}); mean score {model['mean_score']:.3f}."
    )
    return f"{_table(('', 'the model', 'the rules alone', 'difference'), rows)}\n\n{said}"


def _calibration(told: Told) -> str:
    parts = told["assessed"]["model"]["calibration"]
    rows = [
        [str(i), f"{part['mean_score']:.3f}", f"{part['positive_rate']:.3f}"]
        for i, part in enumerate(parts, 1)
    ]
    return _table(("tenth", "mean score", "bad ends"), rows)


def _text(told: Told) -> str:
    text = told["text"]
    both = [text["with"], text["without"]]
    gain = text["without"]["difference"]
    rows = [
        [title, *(_interval(each["figures"][name]) for each in both), _interval(gain[name])]
        for name, title in zip(_FIGURES, _TITLES, strict=True)
    ]
    for title, name, shown in (
        ("trees", "trees", "{:,.0f}"),
        ("training, seconds", "training_seconds", "{:.0f}"),
        ("deciding in bulk, µs a ticket", "microseconds_a_ticket", "{:.0f}"),
        ("bundle, KiB", "bytes", "{:,.0f}"),
    ):
        values = [each[name] / (1024 if name == "bytes" else 1) for each in both]
        rows.append(
            [title, *(shown.format(value) for value in values), shown.format(values[0] - values[1])]
        )
    return _table(("", "with text", "without", "difference"), rows)


def _run(told: Told) -> str:
    replayed, trained = told["replayed"], told["trained"]
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in told["seconds"].items())
    rows, facts = trained["rows"], list[str]()
    facts.append(
        f"{told['imported']:,} tickets imported; {rows['training']:,} trained the model "
        f"({trained['family']}, {trained['trees']} trees), {rows['tuning']:,} stopped and "
        f"calibrated it; {told['decided']:,} decided."
    )
    facts.append(
        f"Of {replayed['replayed']:,} decisions {replayed['identical']:,} replay bit for bit."
    )
    verified = told["verified"]
    facts.append(
        "`tiebreak audit verify` was not asked."
        if verified is None
        else f"`tiebreak audit verify` held: {verified:,} sealed records are as they were sealed."
    )
    return " ".join([*facts, f"Times: {steps}."])


_TABLES = {"figures": _figures, "calibration": _calibration, "text": _text, "run": _run}


def _interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
