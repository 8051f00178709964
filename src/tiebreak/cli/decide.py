"""Decide the tickets of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.decisions.service import DecisionService, Limits
from tiebreak.ingest.bulk import IN_FLIGHT, Bulk
from tiebreak.ingest.files import read_rows
from tiebreak.ingest.outputs import Mark, Outputs
from tiebreak.ingest.rejects import beside

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
    next(read_rows(file), None)  # a file that is none is told before anything starts
    share = 0.0
    went_on_from = 0

    def read_so_far(new: float) -> None:
        nonlocal share
        share = new

    async def work(session: Session) -> Mark:
        nonlocal went_on_from
        service = await DecisionService.start(session.settings, session.keyring, LIMITS)
        try:
            service.schema(workflow)  # an unknown workflow leaves no file behind
            outputs = Outputs.opened(file, workflow, target, rejects or beside(file))
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

    mark = act(person, work)
    told = {
        "rows": mark.decided + mark.rejected,
        "decided": mark.decided,
        "rejected": mark.rejected,
        "went_on_from": went_on_from or None,
        "decisions": str(target),
        "rejects": str(rejects or beside(file)) if mark.rejected else None,
    }
    shown = [(name, value) for name, value in told.items() if value is not None]
    output.result(told, table(f"Decided {file.name}", ("", ""), shown))


def _rate(mark: Mark) -> str:
    return f"{mark.decided:,} decided, {mark.rejected:,} rejected"
