"""Prove that nothing was altered, and read the journal of changes."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer

from tiebreak.audit import checkpoints
from tiebreak.audit.verify import Finding, Report, verify
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import DATES, Session, act, look
from tiebreak.errors import IntegrityFailure
from tiebreak.store import journal

app = typer.Typer()


class TrailBroken(IntegrityFailure):
    """The audit trail is not what was sealed."""

    code = "trail_broken"


@app.callback()
def _group() -> None:
    """Prove that nothing was altered, and read the journal of changes."""


@app.command(name="verify")
def verify_(json: JsonOption = False) -> None:
    """Check every sealed record, every seal and the newest checkpoint; name what is broken first.

    Example: `tiebreak audit verify`
    """
    output = Output(as_json=json)
    begun = time.monotonic()

    async def work(session: Session) -> Report:
        with output.progress("Verifying") as progress:
            return await verify(
                session.db,
                session.artifacts,
                session.keyring,
                lambda done, total: progress(f"{done:,} records", done / max(total, 1)),
            )

    report = look(work)
    first = report.first
    if first is not None:
        raise TrailBroken(
            f"{report.broken:,} broken; the first: {told(first)}",
            hint="Leave everything as it is, and find out who could write to the database.",
            broken=report.broken,
            findings=[_flat(finding) for finding in report.findings],
        )
    counts = {
        "verified": report.verified,
        "erased": report.erased,
        "seals": report.seals,
        "lanes": report.lanes,
    }
    rows = [(name, f"{count:,}") for name, count in counts.items()]
    output.result(
        {"intact": True, **counts, "seconds": round(time.monotonic() - begun, 2)},
        table("Everything is as it was sealed", ("", ""), rows),
    )


@app.command()
def checkpoint(json: JsonOption = False) -> None:
    """Write the signed heads of all lanes to the artifacts now; it also happens each minute.

    Example: `tiebreak audit checkpoint`
    """

    async def work(session: Session) -> str:
        return await checkpoints.write(session.db, session.artifacts, session.keyring)

    name = act(None, work)
    Output(as_json=json).result({"checkpoint": name}, f"Wrote checkpoint {name}.")


@app.command(name="list")
def list_(
    actor: Annotated[
        str | None, typer.Option(help="Only what this person did, or one key: person/key_id.")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as release.installed.")
    ] = None,
    since: Annotated[datetime | None, typer.Option(formats=DATES, help="First time (UTC).")] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of time (UTC), excluded.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most entries.")] = 50,
    json: JsonOption = False,
) -> None:
    """Show who changed what, newest first.

    Example: `tiebreak audit list --action release.installed --since 2026-01-01`
    """
    filters = journal.Filters(
        actor=actor,
        action=action,
        since=since and since.replace(tzinfo=UTC),
        until=until and until.replace(tzinfo=UTC),
    )

    found = look(lambda session: journal.entries(session.db, filters, limit=limit))
    entries = [{**row, "detail": orjson.loads(row["detail"])} for row in found]
    columns = ("at", "actor", "action", "subject", "detail")
    shown = [
        (f"{row['at']:%Y-%m-%d %H:%M:%S}", *(row[name] for name in columns[1:])) for row in found
    ]
    Output(as_json=json).result({"entries": entries}, table("Journal", columns, shown))


def told(finding: Finding) -> str:
    """A finding in words: the record or the seal, and what is wrong with it."""
    key = ", ".join((finding.key or {}).values())
    what = f"{finding.table} ({key})" if finding.table else "seal"
    where = f" at lane {finding.lane}, seal {finding.seq}" if finding.lane else ""
    return f"{what}{where}: {finding.message} [{finding.cause}]"


def _flat(finding: Finding) -> dict[str, str]:
    key = {str(name): value for name, value in (finding.key or {}).items()}
    parts = asdict(finding) | {"key": orjson.dumps(key).decode() if key else None}
    return {name: str(value) for name, value in parts.items() if value is not None}
