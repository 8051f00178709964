"""Model cards: what a manifest and its lineage say, for people, as Markdown and as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiebreak.registry.models import Lineage, ModelFile
from tiebreak.registry.records import Kind

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{border:1px solid #999;padding:.25rem .6rem;text-align:left;overflow-wrap:anywhere}"
)
_PARTS = "Parts of the tickets"
_OF_PARTS = ("auc", "pr_auc", "mean_score", "base_rate", "brier")


@dataclass(frozen=True)
class Section:
    """A heading, a text and a table, each of which may be empty."""

    title: str
    text: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()


def sections(file: ModelFile) -> list[Section]:
    """The card's content, in order."""
    manifest = file.manifest
    if not manifest:
        return [Section("This model does not load", file.model.problem or "")]
    return [
        _identity(file),
        _data(manifest),
        _figures(manifest),
        *_slices(manifest),
        _features(manifest),
        Section("Limits", "\n\n".join(_limits(manifest))),
        _lineage(file.model.digest, file.lineage),
    ]


def markdown(file: ModelFile) -> str:
    """The card in Markdown."""
    lines = [f"# Model card: {_title(file)}", ""]
    for section in sections(file):
        lines += [f"## {section.title}", ""]
        if section.text:
            lines += [section.text, ""]
        if section.rows:
            lines += [_row(section.columns), _row(["---"] * len(section.columns))]
            lines += [*map(_row, section.rows), ""]
    return "\n".join(lines)


def page(file: ModelFile) -> str:
    """The card as one HTML page that loads nothing."""
    title = html.escape(f"Model card: {_title(file)}")
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style><h1>{title}</h1>",
    ]
    for section in sections(file):
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.text.split("\n\n") if text]
        if section.rows:
            head = "".join(f"<th>{html.escape(name)}</th>" for name in section.columns)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
                for row in section.rows
            )
            parts.append(f"<table><tr>{head}</tr>{body}</table>")
    return "\n".join(parts) + "</html>\n"


def _title(file: ModelFile) -> str:
    return f"{file.model.workflow or 'unknown'} {file.model.digest[:12]}"


def _row(cells: Sequence[object]) -> str:
    shown = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(shown)} |"


def _identity(file: ModelFile) -> Section:
    model, manifest = file.model, file.manifest
    origin = manifest.get("origin", {})
    rows = [
        ("digest", model.digest),
        ("workflow", f"{model.workflow}, version {manifest.get('workflow_version', '')[:12]}"),
        ("kind", f"{model.family}, {model.trees} trees"),
        ("origin", model.origin),
        *([("original", f"{origin['shape']}, SHA-256 {origin['file_sha256']}")] if origin else []),
        ("made", f"{_moment(model.made_at)} by {model.made_by or 'unknown'}"),
        ("in use", ", ".join(model.uses) or "nowhere"),
        ("signed", f"{model.algorithm}, key {model.key_id}"),
    ]
    return Section("Model", "", ("", ""), rows)


def _data(manifest: Mapping[str, Any]) -> Section:
    label = manifest.get("label")
    rows: Mapping[str, int] = manifest.get("rows") or {}
    told = [
        ("data hash", manifest.get("data_hash") or "none"),
        *((f"{name} tickets", f"{count:,}") for name, count in rows.items()),
    ]
    if label:
        told.append(("label", f"{label['name']}: `{label['sql']}`"))
        told.append(("mature after", f"{label['maturity_days']:g} days"))
    return Section("Data", "", ("", ""), told)


def _figures(manifest: Mapping[str, Any]) -> Section:
    metrics = manifest.get("metrics")
    if not metrics:
        return Section("Figures", "None: there were no stored tickets with a label.")
    names = ("auc", "pr_auc", "log_loss", "brier", "base_rate", "mean_score")
    rows: list[Sequence[object]] = [(name, _figure(metrics.get(name))) for name in names]
    rows += [
        (f"tenth {i}", f"score {b['mean_score']:.3f}, bad ends {b['positive_rate']:.3f}")
        for i, b in enumerate(metrics.get("calibration", ()), 1)
    ]
    where = (
        "On stored tickets, which the model may have been trained on."
        if manifest.get("origin")
        else "On the latest tickets, which it has not seen."
    )
    return Section("Figures", where, ("figure", "value"), rows)


def _slices(manifest: Mapping[str, Any]) -> list[Section]:
    """How good it is for parts of the tickets, where the workflow named any when it was trained."""
    slices: Mapping[str, Mapping[str, Any]] | None = manifest.get("slices")
    if slices is None:
        return []
    if not slices:
        return [Section(_PARTS, "No part has 100 tickets, and 10 of either end, that validated.")]
    rows = [
        (
            name,
            f"{told['rows']:,}",
            f"{told['positives']:,}",
            *(_figure(told[figure]) for figure in _OF_PARTS),
        )
        for name, told in slices.items()
    ]
    text = "On the latest tickets, which it has not seen; parts with at least 100 of them."
    return [Section(_PARTS, text, ("part", "tickets", "bad ends", *_OF_PARTS), rows)]


def _features(manifest: Mapping[str, Any]) -> Section:
    rows = [(f["name"], f["kind"], len(f["categories"]) or "") for f in manifest["features"]]
    return Section("Features", "", ("feature", "kind", "known values"), rows)


def _limits(manifest: Mapping[str, Any]) -> list[str]:
    found = [
        "It ranks and scores tickets of this workflow, with features defined as they were; "
        "with other definitions it does not load.",
        "A score is a probability as of the ticket's `as_of`; what came later is not in it.",
    ]
    if manifest.get("origin"):
        found.append(
            "It was trained elsewhere: on which data, and with which label, its file does not "
            "tell. Its scores are the original's, not calibrated on the tickets stored here."
        )
    leakage: Mapping[str, Any] = manifest.get("leakage") or {}
    found += [
        f"A leak was waived. {leak.get('said', leak['feature'])}. Why: {leak['reason']}"
        for leak in leakage.get("waived", ())
    ]
    parity: Mapping[str, Any] = manifest.get("parity") or {}
    difference = parity.get("score", parity.get("margin"))
    if difference is not None:
        found.append(
            f"It was proved equal to what was trained on {parity['rows']:,} rows; the largest "
            f"difference was {difference:.1e}."
        )
    return found


def _lineage(digest: str, lineage: Lineage) -> Section:
    rows: list[Sequence[object]] = [
        ("data", lineage.data_hash or "none"),
        ("run", lineage.run_id or "none: imported"),
        ("bundle", digest),
        *(("policy", policy) for policy in lineage.policies),
        *(
            (
                f"release {r['seq']} of {r['workflow']}",
                f"{_moment(r['created_at'])}, by {r['author']}, approved by {r['approver']}: "
                + ("installed without gates" if r["kind"] == Kind.INSTALL else r["kind"]),
            )
            for r in lineage.releases
        ),
    ]
    text = (
        "Decisions carry the hash of the policy that made them: "
        "GET /v1/workflows/{workflow}/decisions?policy=HASH lists them."
    )
    return Section("Lineage", text, ("", ""), rows)


def _moment(value: Any) -> str:
    return "unknown" if value is None else f"{value:%Y-%m-%d %H:%M} UTC"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
