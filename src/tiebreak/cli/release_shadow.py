"""Let candidates score the tickets that production decides."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.session import DATES, PersonOption, ReasonOption, Session, act, look
from tiebreak.release import shadow
from tiebreak.release.releases import find, releases

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Let candidates score the tickets that production decides."""


@app.command()
def start(
    release: ReleaseArgument,
    share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Which share of the tickets, by their id: 0.1 is every tenth."
        ),
    ] = 1.0,
    since: Annotated[
        datetime | None,
        typer.Option(formats=DATES, help="Score stored tickets from then on, too (UTC)."),
    ] = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Let a candidate score: from now on, or from where it was stopped.

    Example: `tiebreak release shadow start 3f2a --share 0.2`
    """

    async def work(session: Session) -> shadow.Status:
        office = session.office()
        found = await find(session.db, release)
        started = await shadow.start(
            office,
            found.release_id,
            actor=session.person,
            share=share,
            since=None if since is None else since.replace(tzinfo=UTC),
        )
        return await shadow.status(session.db, started)

    _show(json, [act(person, work, needs="start_shadow")])


@app.command()
def stop(
    release: ReleaseArgument,
    reason: ReasonOption,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Let a candidate score no more; its scores stay.

    Example: `tiebreak release shadow stop 3f2a --reason "seen enough"`
    """

    async def work(session: Session) -> shadow.Status:
        found = await find(session.db, release)
        stopped = await shadow.stop(
            session.office(), found.release_id, actor=session.person, reason=reason
        )
        return await shadow.status(session.db, stopped)

    _show(json, [act(person, work, needs="stop_shadow")])


@app.command()
def status(
    release: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One release; default: all open ones.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show how far candidates have scored, how fast, and what went wrong.

    Example: `tiebreak release shadow status`
    """

    async def work(session: Session) -> list[shadow.Status]:
        if release is not None:
            return [await shadow.status(session.db, await find(session.db, release))]
        found = [each for each in await releases(session.db) if each.is_open]
        return [await shadow.status(session.db, each) for each in found]

    _show(json, look(work))


def as_data(told: shadow.Status) -> dict[str, Any]:
    """A shadow's status as plain data."""
    return {
        "release": str(told.release.release_id),
        "workflow": told.release.workflow,
        "policy_hash": told.release.policy_hash,
        "state": told.release.state,
        "share": told.share,
        "through": told.through,
        "scored": told.scored,
        "lag_seconds": told.lag_seconds,
        "tickets_per_second": told.tickets_per_second,
        "seconds_per_ticket": told.seconds_per_ticket,
        "error": told.error,
    }


def _show(json: bool, told: list[shadow.Status]) -> None:
    columns = ("release", "workflow", "state", "share", "scored", "lag", "per second", "error")
    rows = [
        (
            str(each.release.release_id)[:8],
            each.release.workflow,
            each.release.state,
            "" if each.share is None else each.share,
            each.scored,
            "" if each.lag_seconds is None else f"{each.lag_seconds:.1f} s",
            "" if each.tickets_per_second is None else f"{each.tickets_per_second:.1f}",
            "" if each.error is None else f"{each.error['cause']}: {each.error['message']}",
        )
        for each in told
    ]
    data = {"shadows": [as_data(each) for each in told]}
    Output(as_json=json).result(data, table("In shadow", columns, rows))
