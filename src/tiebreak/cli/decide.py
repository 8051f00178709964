"""Decide the tickets of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.decisions.service import DecisionService, Limits
from tiebreak.ingest.bulk import IN_FLIGHT, Bulk, Check, check_rows
from tiebreak.ingest.files import read_rows
from tiebreak.ingest.outputs import Mark, Outputs, rejects_of_check
from tiebreak.ingest.rejects import RowsRejected, beside

LIMITS = Limits(queue_size=2 * IN_FLIGHT, batch_max=256)


def command(
    file: Annotated[
        Path, typer.Argument(help="An .ndjson, .csv, .parquet or .arrow file of tickets.")
    ],
    workflow: Annotated[str, typer.Option(help="The workflow's name.")],
    out: Annotated[
        Path | None, typer.Option(help="Where decisions go; default: FILE.decisions.ndjson.")
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Where bad rows go; default: FILE.rejects.ndjson.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Decide nothing when any row is not valid.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the rows; write rejects, decide nothing.")
    ] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Decide every ticket of a file by the policy in production; bad rows go to a rejects file.

    The decisions are stored like all others. After an interruption, the same command goes on
    where it stopped; each ticket is decided and written once.

    Example: `tiebreak decide tickets.csv --workflow locate`
    """
    output = Output(as_json=json)
    target = out or file.with_name(file.name + ".decisions.ndjson")
    refused = rejects or beside(file)
    next(read_rows(file), None)  # a file that is none is told before anything starts
    share = 0.0
    went_on_from = 0

    def read_so_far(new: float) -> None:
        nonlocal share
        share = new

    async def checked(service: DecisionService) -> Check:
        with (
            rejects_of_check(file, target, refused) as found,
            output.progress(f"Checking {file.name}") as progress,
        ):
            rows = read_rows(file, lambda share: progress("checked", share))
            return await check_rows(service, workflow, rows, found)

    async def work(session: Session) -> Mark | Check:
        nonlocal went_on_from
        service = await DecisionService.start(session.settings, session.keyring, LIMITS)
        try:
            service.schema(workflow)  # an unknown workflow leaves no file behind
            if strict or dry_run:
                check = await checked(service)
                if check.rejected and strict:
                    raise _refusal(check, refused if check.is_told else None)
                if dry_run:
                    return check
            outputs = Outputs.opened(file, workflow, target, refused)
            went_on_from = outputs.mark.row
            try:
                with output.progress(f"Deciding {file.name}") as progress:
                    bulk = Bulk(
                        service,
                        workflow,
                        session.person,
                        outputs,
                        lambda mark: progress(_rate(mark), share),
                    )
                    return await bulk.run(read_rows(file, read_so_far))
            finally:
                outputs.close()
        finally:
            await service.drain()

    done = act(person, work)
    is_told = not isinstance(done, Check) or done.is_told
    bad = {
        "rejected": done.rejected,
        "rejects": str(refused) if done.rejected and is_told else None,
    }
    if isinstance(done, Check):
        told = {"dry_run": True, "rows": done.valid + done.rejected, "valid": done.valid, **bad}
    else:
        told = {
            "rows": done.decided + done.rejected,
            "decided": done.decided,
            "went_on_from": went_on_from or None,
            "decisions": str(target),
            **bad,
        }
    shown = [(name, value) for name, value in told.items() if value is not None]
    title = "Checked, and decided nothing of," if dry_run else "Decided"
    output.result(told, table(f"{title} {file.name}", ("", ""), shown))


def _refusal(check: Check, rejects: Path | None) -> RowsRejected:
    where = (
        "An interrupted run still needs its rejects file" if rejects is None else f"See {rejects}"
    )
    return RowsRejected(
        f"{check.rejected:,} of {check.valid + check.rejected:,} rows are not valid; this run "
        "decided nothing.",
        hint=f"{where}; correct them, or decide without --strict.",
        problems=tuple(check.problems),
        rejected=check.rejected,
    )


def _rate(mark: Mark) -> str:
    return f"{mark.decided:,} decided, {mark.rejected:,} rejected"
