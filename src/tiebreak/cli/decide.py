"""Decide the tickets of a file."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Annotated, Any

import orjson
import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.decisions.service import DecisionService, Limits
from tiebreak.ingest.bulk import IN_FLIGHT, Bulk, Tally
from tiebreak.ingest.files import Rejects, read_rows

LIMITS = Limits(queue_size=2 * IN_FLIGHT, batch_max=256)


def command(
    file: Annotated[Path, typer.Argument(help="An .ndjson, .csv or .parquet file of tickets.")],
    workflow: Annotated[str, typer.Option(help="The workflow's name.")],
    out: Annotated[
        Path | None, typer.Option(help="Where decisions go; default: FILE.decisions.ndjson.")
    ] = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Decide every ticket of a file by the policy in production; bad rows go to a rejects file.

    The decisions are stored like all others. Running it again, after an interruption too, gives
    the same decisions.

    Example: `tiebreak decide tickets.csv --workflow locate`
    """
    output = Output(as_json=json)
    target = out or file.with_name(file.name + ".decisions.ndjson")
    total = sum(1 for _ in read_rows(file))
    rejects = Rejects(file)

    async def work(session: Session) -> Tally:
        service = await DecisionService.start(session.settings, session.keyring, LIMITS)
        try:
            service.schema(workflow)  # an unknown workflow leaves no file behind
            with output.progress(f"Deciding {file.name}") as progress, target.open("wb") as sink:
                bulk = Bulk(
                    service,
                    workflow,
                    session.person,
                    write=lambda answer: _write(sink, answer),
                    reject=rejects.add,
                )
                return await bulk.run(
                    read_rows(file), lambda tally: progress(_rate(tally), tally.rows / total)
                )
        finally:
            rejects.close()
            await service.drain()

    tally = act(person, work)
    told = {
        "rows": tally.rows,
        "decided": tally.decided,
        "rejected": tally.rejected,
        "decisions": str(target),
        "rejects": str(rejects.path) if tally.rejected else None,
    }
    shown = [(name, value) for name, value in told.items() if value is not None]
    output.result(told, table(f"Decided {file.name}", ("", ""), shown))


def _write(sink: IO[bytes], answer: dict[str, Any]) -> None:
    sink.write(orjson.dumps(answer) + b"\n")


def _rate(tally: Tally) -> str:
    return f"{tally.decided:,} decided, {tally.rejected:,} rejected"
