"""Try a changed policy on history: what flips, what that catches, what it costs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tiebreak.backtest import report
from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.backtest.outcomes import MINUTES_A_REVIEW
from tiebreak.backtest.plans import Request
from tiebreak.backtest.run import Runner
from tiebreak.bundles.folder import write_whole
from tiebreak.cli.changes import (
    BundleOption,
    FolderOption,
    JobsOption,
    KnobsOption,
    PolicyOption,
    changes_of,
)
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.cli.train import DATES
from tiebreak.registry import records
from tiebreak.registry.candidates import candidate
from tiebreak.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer()

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first digits.")]


@app.callback()
def _group() -> None:
    """Try a changed policy on history: what flips, what that catches, what it costs."""


@app.command()
def run(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    policy: PolicyOption = None,
    folder: FolderOption = None,
    bundle: BundleOption = None,
    set_: KnobsOption = None,
    since: Annotated[
        datetime | None, typer.Option(formats=DATES, help="First `as_of` (UTC); default: all.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of `as_of` (UTC); default: all.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="Count by this field; may be given again; default: the workflow's slices."
        ),
    ] = None,
    minutes_a_review: Annotated[
        float, typer.Option(min=0, max=1e6, help="How long a review takes, for reviewer hours.")
    ] = MINUTES_A_REVIEW,
    jobs: JobsOption = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Decide history by a changed policy and compare; nothing that decides is changed.

    Parts that are not given are those of the policy in production. A run that was interrupted
    goes on when the same command is given again.

    Example: `tiebreak backtest run locate --set points.high=36 --by ticket_type`
    """
    output = Output(as_json=json)
    changes = changes_of(policy, folder, bundle, set_)

    async def work(session: Session) -> Backtest:
        now = (await records.current(session.db, session.keyring)).get(workflow)
        if isinstance(now, records.ForgedRelease):
            raise now
        library = session.library()
        parts = None if now is None else await library.parts(now.policy_hash)
        tried = await candidate(session.db, library, session.artifacts, workflow, parts, changes)
        request = Request(
            workflow=workflow,
            candidate=tried,
            production=None if parts is None else await library.recipe(parts),
            since=_utc(since),
            until=_utc(until),
            by=tuple(dict.fromkeys(by or tried.workflow.slices)),
        )
        runner = Runner(
            session.db, session.lane, session.settings, session.bundle_keys, session.person
        )
        with output.progress(f"Backtesting {workflow}") as progress:
            return await runner.run(
                request,
                jobs=jobs or len(os.sched_getaffinity(0)),
                minutes_a_review=minutes_a_review,
                progress=progress,
            )

    made = act(person, work)
    output.result(made.as_data(), *tables_of(made))
    output.note(
        f"Next: `tiebreak backtest show {made.id[:12]} --html report.html`, or "
        f"`tiebreak release propose {workflow} --backtest {made.id[:12]} --reason WHY`"
    )


@app.command(name="list")
def list_(json: JsonOption = False) -> None:
    """List finished backtests, newest first.

    Example: `tiebreak backtest list`
    """
    found = _evidence().list()
    rows = [
        (
            made.id[:12],
            made.evidence["workflow"],
            made.evidence["policy_hash"][:12],
            ", ".join(report.changed_parts(made.evidence)) or "nothing",
            f"{made.evidence['figures']['tickets']:,}",
            f"{made.evidence['figures']['flips']:,}",
            str(made.run["finished_at"])[:16],
        )
        for made in found
    ]
    columns = ("backtest", "workflow", "policy", "changed", "tickets", "flips", "finished")
    told = {"backtests": [made.as_data() for made in found]}
    Output(as_json=json).result(told, table("Backtests", columns, rows))


@app.command()
def show(
    backtest: IdArgument,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report there as HTML.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a backtest, or write its report with plots as one HTML file.

    Example: `tiebreak backtest show 3f2a --html report.html`
    """
    output = Output(as_json=json)
    made = _evidence().get(backtest)
    if html is not None:
        write_whole(html, report.html(made).encode())
        output.note(f"Written: {html}")
    output.result(made.as_data(), *tables_of(made))


@app.command()
def compare(a: IdArgument, b: IdArgument, json: JsonOption = False) -> None:
    """Put two backtests side by side, and say what else than the policy differs.

    Example: `tiebreak backtest compare 3f2a 90bc`
    """
    evidence = _evidence()
    one, other = evidence.get(a), evidence.get(b)
    rows, differing = report.comparison(one, other), report.differences(one, other)
    output = Output(as_json=json)
    told = {
        "a": one.id,
        "b": other.id,
        "differences": differing,
        "figures": {
            each.id: {"policy_hash": each.evidence["policy_hash"], **each.evidence["figures"]}
            for each in (one, other)
        },
    }
    columns = ("", one.id[:12], other.id[:12], "difference")
    output.result(told, table("Two backtests", columns, rows))
    if differing:
        output.note(f"Not only the policy differs: {', '.join(differing)}.")


def _evidence() -> Evidence:
    return Evidence.of(Settings.load())


def tables_of(made: Backtest) -> Sequence[RenderableType]:
    """A backtest for people."""
    evidence = made.evidence
    bands = ("", *(f"{band} after" for band in report.BANDS))
    segments = [
        table(f"By {field}", (field, *report.SEGMENT_COLUMNS), report.segment_rows(parts))
        for field, parts in evidence["segments"].items()
    ]
    return [
        table("Backtest", ("", ""), report.subject_rows(made)),
        table("What changes", ("", ""), report.figure_rows(made)),
        table("Tickets by band", bands, report.band_rows(made)),
        *segments,
        table("Examples to open", report.EXAMPLE_COLUMNS, report.example_rows(made)),
    ]


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
