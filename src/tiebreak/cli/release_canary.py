"""Let an approved candidate decide a share of the tickets."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.release_shadow import ReleaseArgument
from tiebreak.cli.session import PersonOption, Session, act, look
from tiebreak.release import canary
from tiebreak.release.releases import Release, find, get

PercentOption = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="The share; default: that of the plan's next step."),
]
ReasonOption = Annotated[str, typer.Option(help="Why.")]
Move = Callable[[Session, Release], Coroutine[Any, Any, Release]]

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Let an approved candidate decide a share of the tickets."""


@app.command()
def start(
    release: ReleaseArgument,
    percent: PercentOption = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Let a release that was approved for it decide its first share.

    Example: `tiebreak release canary start 3f2a --percent 5`
    """

    async def move(session: Session, found: Release) -> Release:
        office = session.office()
        return await canary.start(
            office,
            found.release_id,
            actor=session.person,
            plan=await canary.plan_of(office, found),
            percent=percent,
        )

    _move(release, person, json, move)


@app.command()
def step(
    release: ReleaseArgument,
    percent: PercentOption = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Let it decide the next share now; a held canary goes on.

    Example: `tiebreak release canary step 3f2a`
    """

    async def move(session: Session, found: Release) -> Release:
        office = session.office()
        return await canary.step(
            office,
            found.release_id,
            actor=session.person,
            plan=await canary.plan_of(office, found),
            percent=percent,
        )

    _move(release, person, json, move)


@app.command()
def hold(
    release: ReleaseArgument,
    reason: ReasonOption,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Let it keep its share until somebody steps it.

    Example: `tiebreak release canary hold 3f2a --reason "over the weekend"`
    """

    async def move(session: Session, found: Release) -> Release:
        return await canary.hold(
            session.office(), found.release_id, actor=session.person, reason=reason
        )

    _move(release, person, json, move)


@app.command()
def stop(
    release: ReleaseArgument,
    reason: ReasonOption,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Take its share: production decides everything within a second.

    Example: `tiebreak release canary stop 3f2a --reason "odd bands"`
    """

    async def move(session: Session, found: Release) -> Release:
        return await canary.stop(
            session.office(), found.release_id, actor=session.person, reason=reason
        )

    _move(release, person, json, move)


@app.command()
def status(release: ReleaseArgument, json: JsonOption = False) -> None:
    """Show its share, and what its guards find beside production.

    Example: `tiebreak release canary status 3f2a`
    """

    async def work(session: Session) -> canary.Status:
        found = await find(session.db, release)
        return await _status(session, found)

    _show(json, look(work))


async def _status(session: Session, release: Release) -> canary.Status:
    office = session.office()
    return await canary.status(office, release, await canary.plan_of(office, release))


def as_data(told: canary.Status) -> dict[str, Any]:
    """A canary's status as plain data."""
    return {
        "release": str(told.release.release_id),
        "workflow": told.release.workflow,
        "policy_hash": told.release.policy_hash,
        "state": told.release.state,
        "percent": told.percent,
        "step_since": told.step_since,
        "tickets": told.tickets,
        "guards": [guard.as_data() for guard in told.guards],
    }


def _move(release: str, person: str | None, json: bool, move: Move) -> None:
    async def work(session: Session) -> canary.Status:
        found = await find(session.db, release)
        await move(session, found)
        moved = await get(session.db, found.release_id)
        return await _status(session, moved)

    _show(json, act(person, work))


def _show(json: bool, told: canary.Status) -> None:
    columns = ("guard", "canary", "of", "production", "of", "evidence", "limit")
    rows = [
        (
            guard.name,
            _rate(guard.canary),
            guard.canary_count,
            _rate(guard.production),
            guard.production_count,
            f"{guard.e_value:.3g}",
            f"{guard.limit:.0f}",
        )
        for guard in told.guards
    ]
    release = told.release
    title = f"Canary of {release.workflow}: {release.state}, {told.percent} %"
    Output(as_json=json).result(as_data(told), table(title, columns, rows))


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
