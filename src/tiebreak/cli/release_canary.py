"""Let an approved candidate decide a share of the tickets."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.session import PersonOption, ReasonOption, Session, act, look
from tiebreak.release import canary
from tiebreak.release.releases import Office, Release, find

PercentOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        help="The share, at most that of the plan's next step, which is the default; 100: all "
        "tickets, once it is through its steps and approved for promotion.",
    ),
]
EarlyOption = Annotated[
    str | None,
    typer.Option(
        metavar="REASON",
        help="Let the share grow before the step had its hours and tickets; why.",
    ),
]
Move = Callable[[Office, UUID, str], Coroutine[Any, Any, Release]]

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
    _move(
        release,
        person,
        json,
        "start_canary",
        lambda office, found, actor: canary.start(office, found, actor=actor, percent=percent),
    )


@app.command()
def step(
    release: ReleaseArgument,
    percent: PercentOption = None,
    early: EarlyOption = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Let it decide the next share when its step is over; a held canary goes on.

    Example: `tiebreak release canary step 3f2a`
    """
    _move(
        release,
        person,
        json,
        "step_canary",
        lambda office, found, actor: canary.step(
            office, found, actor=actor, percent=percent, early=early
        ),
    )


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
    _move(
        release,
        person,
        json,
        "hold_canary",
        lambda office, found, actor: canary.hold(office, found, actor=actor, reason=reason),
    )


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
    _move(
        release,
        person,
        json,
        "stop_canary",
        lambda office, found, actor: canary.stop(office, found, actor=actor, reason=reason),
    )


@app.command()
def status(release: ReleaseArgument, json: JsonOption = False) -> None:
    """Show its share, and what its guards find beside production.

    Example: `tiebreak release canary status 3f2a`
    """

    async def work(session: Session) -> canary.Status:
        return await canary.status(session.office(), await find(session.db, release))

    _show(json, look(work))


def as_data(told: canary.Status) -> dict[str, Any]:
    """A canary's status as plain data."""
    return {
        "release": str(told.release.release_id),
        "workflow": told.release.workflow,
        "policy_hash": told.release.policy_hash,
        "state": told.release.state,
        "percent": told.percent,
        "step_since": told.step.since,
        "tickets": told.step.tickets,
        "hours_left": told.step.hours_left,
        "tickets_left": told.step.tickets_left,
        "guards": [guard.as_data() for guard in told.guards],
    }


def _move(release: str, person: str | None, json: bool, needs: str, move: Move) -> None:
    async def work(session: Session) -> canary.Status:
        office = session.office()
        found = await find(session.db, release)
        return await canary.status(office, await move(office, found.release_id, session.person))

    _show(json, act(person, work, needs=needs))


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
    if not told.step.is_over:
        left = f"{told.step.hours_left:.1f} hours and {told.step.tickets_left:,} tickets"
        title += f"; {left} are left of this step"
    Output(as_json=json).result(as_data(told), table(title, columns, rows))


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
