# ruff: noqa: N999 - each file is named after its command
"""Import historical tickets and what became known about them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.ingest.importer import Files, ImportReport, import_history
from tiebreak.ingest.outputs import refuse_overwriting
from tiebreak.workflows import versions


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    tickets: Annotated[
        list[Path], typer.Argument(help="Files of tickets: .ndjson, .csv, .parquet or .arrow.")
    ],
    outcomes: Annotated[
        list[Path] | None,
        typer.Option(help="A file of what became known later; may be given again."),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(help="Where all bad rows go; default: FILE.rejects.ndjson for each file."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Import nothing when any row is not valid.")
    ] = False,
    known_by: Annotated[
        datetime | None,
        typer.Option(formats=DATES, help="Leave what was not known by then (UTC); default: now."),
    ] = None,
    as_arrived: Annotated[
        bool,
        typer.Option(
            "--as-arrived", help="Nothing was filled in later: to gates they are live tickets."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the rows; write rejects, import nothing.")
    ] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Import history in time order; bad rows go to a rejects file, with the reasons.

    What is there already is skipped, so an interrupted import is simply run again. A stream of
    the past comes in piece by piece when the same files are given with a later --known-by.

    Example: `tiebreak import locate tickets.parquet --outcomes events.parquet`
    """
    output = Output(as_json=json)
    if rejects is not None:
        refuse_overwriting(rejects, [*tickets, *(outcomes or ())])
    moment = None if known_by is None else known_by.replace(tzinfo=UTC)
    files = Files(tickets, outcomes or (), rejects, moment, as_arrived)

    async def work(session: Session) -> ImportReport:
        stored = await versions.latest(session.db, workflow)
        with output.progress(f"Importing into {workflow}") as progress:
            return await import_history(
                session.db,
                session.keyring,
                stored.workflow,
                files,
                actor=session.person,
                strict=strict,
                dry_run=dry_run,
                progress=progress,
            )

    report = act(person, work)
    title = f"Would import into {workflow}" if dry_run else f"Imported into {workflow}"
    output.result(as_data(report, dry_run=dry_run), table(title, ("", ""), _figures(report)))


def as_data(report: ImportReport, *, dry_run: bool = False) -> dict[str, Any]:
    """A report as plain data."""
    return asdict(report) | {"dry_run": dry_run, "rejects": [str(path) for path in report.rejects]}


def _figures(report: ImportReport) -> list[tuple[str, str]]:
    figures = [("tickets", f"{report.tickets:,}")]
    figures += [(f"{kind} events", f"{count:,}") for kind, count in report.events.items() if count]
    others = {
        "there already": report.already,
        "not yet known": report.not_yet_known,
        "rejected rows": report.rejected,
    }
    figures += [(name, f"{count:,}") for name, count in others.items() if count]
    figures += [("see", str(path)) for path in report.rejects]
    if report.first is not None and report.last is not None:
        figures.append(("opened", f"{report.first:%Y-%m-%d} to {report.last:%Y-%m-%d}"))
    return figures
