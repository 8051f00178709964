"""Show the reports of training runs: which family to use, why, and for whom it is worse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import write_whole
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.registry.proposals import find_digest
from tiebreak.report.documents import written
from tiebreak.settings import Settings
from tiebreak.training import reports

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Show the reports of training runs: which family to use, why, and for whom it is worse."""


@app.command(name="list")
def list_(json: JsonOption = False) -> None:
    """List the models that have a report.

    Example: `tiebreak reports list`
    """
    artifacts = ArtifactStore.of(Settings.load())
    found = [
        {"model": digest, **_summary(orjson.loads(artifacts.read_report(digest)))}
        for digest in artifacts.list_reports()
    ]
    rows = [
        (one["model"][:12], one["workflow"], one["bundled"], one["use"], one["until"][:10])
        for one in found
    ]
    columns = ("model", "workflow", "family", "to use", "judged until")
    Output(as_json=json).result({"reports": found}, table("Reports", columns, rows))


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Digest of its bundle, or the first digits.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it with plots; .md for Markdown, else HTML."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the report of a model, or write it with its plots.

    Example: `tiebreak reports show 3fa2 --to report.html`
    """
    artifacts = ArtifactStore.of(Settings.load())
    report = orjson.loads(artifacts.read_report(find_digest(artifacts, model)))
    output = Output(as_json=json)
    if to is not None:
        write(report, to, output)
    output.result(report, *told(report))


def write(report: dict[str, Any], file: Path, output: Output) -> None:
    """Write a report where it is wanted."""
    for path, text in written(file, reports.title_of(report), reports.sections(report)).items():
        write_whole(path, text.encode())
        output.note(f"Written: {path}")


def told(report: dict[str, Any]) -> list[RenderableType]:
    """A report for people, without its plots."""
    return [
        table("Models compared, the best first", reports.COLUMNS, reports.ranking(report)),
        "\n".join(report["verdict"]["said"]),
    ]


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "workflow": report["workflow"],
        "bundled": report["bundled"],
        "use": report["verdict"]["use"],
        "until": report["validation"]["until"],
    }
