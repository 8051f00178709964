"""Keep the history of a workflow as its versions need it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import MOST, PersonOption, Session, act
from tiebreak.ingest.rebuild import RebuildReport
from tiebreak.ingest.rebuild import rebuild as rebuild_history

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Keep the history of a workflow as its versions need it."""


@app.command()
def rebuild(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    version: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Version of the workflow; default: the newest."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what would be built.")] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Build a generation of history that keeps what production and a version read.

    Deciding goes on meanwhile. When it is interrupted, run it again: it goes on where it was.

    Example: `tiebreak history rebuild locate`
    """
    output = Output(as_json=json)

    async def work(session: Session) -> RebuildReport:
        with output.progress(f"Rebuilding history of {workflow}") as progress:
            return await rebuild_history(
                session.db,
                session.lane,
                session.keyring,
                workflow,
                actor=session.person,
                ordinal=version,
                dry_run=dry_run,
                progress=progress,
            )

    _tell(output, act(person, work), dry_run=dry_run)


def _tell(output: Output, report: RebuildReport, *, dry_run: bool) -> None:
    told = asdict(report) | {"dry_run": dry_run, "rebuilt": bool(report.added) and not dry_run}
    if not report.added:
        text = f"The history of {report.workflow} keeps all that version {report.version} reads."
        output.result(told, text)
        return
    figures = [("new totals", ", ".join(report.added))]
    figures += [("dropped totals", ", ".join(report.dropped))] if report.dropped else []
    if not dry_run:
        figures.append(("events", f"{report.events:,}"))
    if report.erased:
        figures.append(("events of erased tickets, left out", f"{report.erased:,}"))
    title = "Would build" if dry_run else f"Built generation {report.generation} of"
    heading = f"{title} the history of {report.workflow} for version {report.version}"
    output.result(told, table(heading, ("", ""), figures))
