"""A comparison of families, as sections of a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tiebreak.report.documents import Section
from tiebreak.report.plots import curves, intervals

Figure = Mapping[str, float]
_KINDS = {"served": "", "yardstick": " (yardstick)", "rules": " (no model)"}


def title_of(report: Mapping[str, Any]) -> str:
    """What the document is called."""
    return f"Models for {report['workflow']}"


def sections(report: Mapping[str, Any]) -> list[Section]:
    """The whole report: what to do, on what grounds, and for whom it is better or worse."""
    contenders = report["contenders"]
    return [
        Section("What to use", report["verdict"]["said"]),
        Section("Judged on", [_judged_on(report)], ("", ""), _subject(report)),
        Section(
            "How well each ranks",
            ["The dot is the figure, the line where 95% of resamples of the tickets put it."],
            COLUMNS,
            ranking(report),
            intervals(
                "Area under the precision-recall curve",
                [(_name(one), *_bounds(one["figures"]["pr_auc"])) for one in contenders],
            ),
        ),
        Section(
            "What is caught by reviewing the highest scores",
            drawing=curves(
                "Share of bad ends among the tickets reviewed",
                "share of tickets reviewed",
                [(_name(one), one["recall_curve"]) for one in contenders],
            ),
        ),
        Section(
            "Whether scores are probabilities",
            ["Each point is a tenth of the tickets; a calibrated model lies on the diagonal."],
            drawing=curves(
                "Rate of bad ends by mean score",
                "mean score",
                [
                    (_name(one), sorted(one["calibration"]))
                    for one in contenders
                    if one["calibration"]
                ]
                + [("calibrated", _diagonal(contenders))],
            ),
        ),
        Section(
            "What serving costs",
            ["Measured on the machine that trained, one thread, while it did other work."],
            COST_COLUMNS,
            cost_rows(report),
        ),
        *(_tuning(report) if report["tuning"] else ()),
        *(_slice(name, parts) for name, parts in report["slices"].items()),
    ]


COLUMNS = ("", "PR-AUC", "AUC", "caught at capacity", "calibration error")
COST_COLUMNS = ("", "one ticket", "a ticket of 64", "its explanation", "size", "trees")
SLICE_COLUMNS = ("", "tickets", "bad ends", "AUC", "caught", "needless", "score less rate")


def ranking(report: Mapping[str, Any]) -> list[list[str]]:
    """A row a contender, the best first."""
    return [
        [
            _name(one),
            *(
                _told(one["figures"].get(name))
                for name in ("pr_auc", "auc", "recall", "calibration_error")
            ),
        ]
        for one in report["contenders"]
    ]


def cost_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """A row each family that can be served."""
    return [
        [
            one["name"],
            *(
                f"{one['costs'][name]:,.2f} µs"
                for name in ("score_one_us", "score_batch_us_a_row", "explain_batch_us_a_row")
            ),
            f"{one['costs']['bytes'] / 1e6:,.2f} MB",
            f"{one['costs']['trees']:.0f}",
        ]
        for one in report["contenders"]
        if one["kind"] == "served"
    ]


def _judged_on(report: Mapping[str, Any]) -> str:
    days, capacity = report["validation"]["days"], report["capacity"]
    return (
        f"The latest {days:,.0f} days, which trained nothing; people are taken to review "
        f"{capacity['reviews_a_day']:,.1f} tickets a day, {capacity['share']:.1%} of all."
    )


def _subject(report: Mapping[str, Any]) -> list[list[str]]:
    told = report["validation"]
    return [
        ["tickets", f"{told['rows']:,}"],
        ["bad ends", f"{told['positives']:,} ({told['base_rate']:.1%})"],
        ["from", told["since"][:10]],
        ["to", told["until"][:10]],
        ["workflow version", report["workflow_version"][:12]],
        ["snapshot", report["snapshot"][:12]],
        ["bundled", report["bundled"]],
        *(["leak waived", f"{name}: {why}"] for name, why in report["leakage_waived"].items()),
    ]


def _tuning(report: Mapping[str, Any]) -> list[Section]:
    rows = [
        [name, str(one["trials"]), str(one["pruned"]), f"{one['pr_auc']:.3f}"]
        for name, one in report["tuning"].items()
    ]
    said = "Families that are not named here were trained with the parameters as given."
    columns = ("", "trials", "given up early", "best PR-AUC of cross-validation")
    return [Section("Search of parameters", [said], columns, rows)]


def _slice(name: str, parts: Sequence[Mapping[str, Any]]) -> Section:
    rows = [
        [
            part["value"],
            f"{part['rows']:,}",
            f"{part['positives']:,}",
            *(
                _told(part["figures"][figure])
                for figure in ("auc", "recall", "needless", "score_less_rate")
            ),
        ]
        for part in parts
    ]
    said = [
        "Caught are bad ends among the tickets that would be reviewed; needless are good ends "
        "among them. A score less the rate above 0 is too high."
    ]
    if not rows:
        said = ["No group has enough tickets of either end."]
    drawing = intervals(
        f"Bad ends caught by {name}",
        [(part["value"], *_bounds(part["figures"]["recall"])) for part in parts],
    )
    return Section(f"By {name}", said, SLICE_COLUMNS, rows, drawing)


def _diagonal(contenders: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    most = max((max(point) for one in contenders for point in one["calibration"]), default=1.0)
    return [[0.0, 0.0], [most, most]]


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['name']}{_KINDS[one['kind']]}"


def _bounds(figure: Figure) -> tuple[float, float, float]:
    return figure["value"], figure["low"], figure["high"]


def _told(figure: Figure | None) -> str:
    if figure is None or figure["value"] != figure["value"]:
        return "undefined"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
