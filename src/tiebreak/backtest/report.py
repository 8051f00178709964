"""Reports: what a backtest found, as rows for people and as a page of HTML with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tiebreak.backtest.evidence import Backtest
from tiebreak.backtest.flips import KINDS, ROUTES
from tiebreak.core.bands import Band
from tiebreak.report.page import page, table
from tiebreak.report.plots import lines, matrix, paired_bars

BANDS = tuple(band.label for band in Band)
CHANGES = ("reviews", "reviewer_hours", "caught", "missed", "needless_reviews")
COUNTS = ("tickets", "flips", "raised", "lowered", "rerouted")
NEW = ("newly_caught", "newly_missed", "new_needless_reviews")
EXTRAS = ("ties", "tiebreak_calls", "cost")  # changes of all tickets, shown where they are
LABELLED = ("caught", "missed", "needless_reviews", *NEW)  # what needs a label

Rows = list[tuple[str, str]]


def subject_rows(made: Backtest) -> Rows:
    """What was tested against what, on what."""
    e, baseline = made.evidence, made.evidence["baseline"]
    rows = [
        ("backtest", made.id[:12]),
        ("workflow", e["workflow"]),
        ("policy", e["policy_hash"][:12]),
        ("changed", ", ".join(changed_parts(e)) or "nothing"),
        (
            "baseline",
            f"{baseline['stored']:,} stored decisions, {baseline['recomputed']:,} decided again "
            f"by {(baseline['production'] or 'nothing')[:12]}",
        ),
        ("window", f"{e['window']['since'][:10]} to {e['window']['until'][:10]}"),
        ("known by", e["known_by"][:19]),
        ("context", e["context"]),
    ]
    if e.get("before_valid_from"):
        rows.append(("the model may have learnt from", f"{e['before_valid_from']:,} of them"))
    if e["erased_in_history"]:
        rows.append(("erased tickets missing in that history", f"{e['erased_in_history']:,}"))
    rows += [(f"left out: {_words(why)}", f"{count:,}") for why, count in e["skipped"].items()]
    rows += [(f"failed: {where}", f"{n:,} tickets") for where, n in e["expression_errors"].items()]
    return rows


def figure_rows(made: Backtest) -> Rows:
    """The figures of all tickets."""
    figures = made.evidence["figures"]
    rows = [(_words(name), f"{figures[name]:,}") for name in COUNTS]
    shown = [name for name in (*CHANGES, *NEW) if made.evidence["label"] or name not in LABELLED]
    rows += [(_words(name), _change(figures[name])) for name in shown if name in CHANGES]
    rows += [(_words(name), f"{figures[name]:,}") for name in shown if name in NEW]
    for name in EXTRAS:
        if figures.get(name) is not None:  # older backtests, and workflows without costs, have none
            rows.append((_words(name), _change(figures[name])))
    rows.append(("assumed", f"{made.evidence['minutes_a_review']:g} minutes a review"))
    outcomes = figures["outcomes"]
    told = f"{outcomes['positive']:,} bad ends, {outcomes['negative']:,} good ones"
    if made.evidence["label"]:
        rows.append(("known outcomes", f"{told}, {outcomes['unknown']:,} not known yet"))
    else:
        rows.append(("known outcomes", "none: the workflow defines no label"))
    return rows


def band_rows(made: Backtest) -> list[list[str]]:
    """Bands before by bands after, a row a band before."""
    counts = made.evidence["figures"]["bands"]
    return [
        [f"{band} before", *(f"{count:,}" for count in row)]
        for band, row in zip(BANDS, counts, strict=True)
    ]


def segment_rows(parts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row a segment."""
    return [
        [
            part["value"],
            *(f"{part[name]:,}" for name in ("tickets", "raised", "lowered")),
            _change(part["reviews"]),
            f"{part['newly_caught']:,}",
            f"{part['newly_missed']:,}",
        ]
        for part in parts
    ]


SEGMENT_COLUMNS = (
    "tickets",
    "raised",
    "lowered",
    "reviews",
    "newly caught",
    "newly missed",
)


def example_rows(made: Backtest) -> list[list[str]]:
    """A row an example ticket, with what moved."""
    examples = made.evidence["examples"]
    return [
        [_words(kind), each["ticket_id"], str(each["revision"]), each["as_of"][:10], _move(each)]
        for kind in KINDS
        for each in examples.get(kind, ())
    ]


EXAMPLE_COLUMNS = ("example of", "ticket", "revision", "as of", "moved")


def changed_parts(evidence: Mapping[str, Any]) -> list[str]:
    """The parts in which the policy differs from that in production."""
    before: Mapping[str, Any] = evidence["baseline"]["policy"] or {}
    after: Mapping[str, Any] = evidence["policy"]
    return [_words(name) for name in after if before.get(name) != after[name]]


def html(made: Backtest) -> str:
    """The whole report as one page that needs nothing else."""
    e, figures = made.evidence, made.evidence["figures"]
    months: Sequence[Mapping[str, Any]] = e["months"]
    names = [month["value"] for month in months]
    title = f"Backtest {made.id[:12]}: {e['workflow']}"
    shown = [name for name in CHANGES if e["label"] or name not in LABELLED]
    parts = [
        f"<h1>{escape(title)}</h1>",
        table(("", ""), subject_rows(made)),
        "<h2>What changes</h2>",
        table(("", ""), figure_rows(made)),
        matrix("Tickets by band", BANDS, figures["bands"]),
        matrix("Tickets by route", ROUTES, figures["routes"]),
        paired_bars(
            "Reviews and outcomes",
            [(_words(name), figures[name]["before"], figures[name]["after"]) for name in shown],
        ),
        lines(
            "Reviews a month",
            names,
            [(when, [month["reviews"][when] for month in months]) for when in ("before", "after")],
        ),
    ]
    for field, segments in e["segments"].items():
        parts += [
            f"<h2>By {escape(field)}</h2>",
            paired_bars(
                f"Reviews by {field}",
                [(s["value"], s["reviews"]["before"], s["reviews"]["after"]) for s in segments],
            ),
            table((field, *SEGMENT_COLUMNS), segment_rows(segments)),
        ]
    parts += ["<h2>Examples to open</h2>", table(EXAMPLE_COLUMNS, example_rows(made))]
    parts.append(f"<p>Evidence {made.id}<br>policy {e['policy_hash']}</p>")
    return page(title, parts)


def comparison(a: Backtest, b: Backtest) -> list[list[str]]:
    """The figures of two backtests side by side."""
    rows: list[list[str]] = []
    for name in (*COUNTS, *CHANGES, *NEW):
        values: list[Any] = [each.evidence["figures"][name] for each in (a, b)]
        numbers: list[float] = [v["after"] for v in values] if name in CHANGES else values
        label = f"{_words(name)} after" if name in CHANGES else _words(name)
        rows.append([label, *(f"{n:,}" for n in numbers), f"{numbers[1] - numbers[0]:+,}"])
    return rows


def differences(a: Backtest, b: Backtest) -> list[str]:
    """What else than the policy differs between two backtests, so that figures may differ too."""
    same = ("workflow", "window", "context", "fingerprint", "label", "minutes_a_review")
    found = [_words(name) for name in same if a.evidence[name] != b.evidence[name]]
    sources = [each.evidence["baseline"] for each in (a, b)]
    if any(sources[0][name] != sources[1][name] for name in ("production", "stored")):
        found.append("baseline")
    if any(
        a.evidence["figures"]["outcomes"][name] != b.evidence["figures"]["outcomes"][name]
        for name in a.evidence["figures"]["outcomes"]
    ):
        found.append("known outcomes")
    return found


def _change(change: Mapping[str, float]) -> str:
    return f"{change['before']:,} → {change['after']:,} ({change['change']:+,})"


def _move(example: Mapping[str, Any]) -> str:
    axes: Mapping[str, Sequence[str]] = {"band": BANDS, "route": ROUTES}
    moves = [
        " → ".join(names[int(example[f"{axis}_{when}"])] for when in ("before", "after"))
        for axis, names in axes.items()
    ]
    return ", ".join(moves)


def _words(name: str) -> str:
    return name.replace("_", " ")
