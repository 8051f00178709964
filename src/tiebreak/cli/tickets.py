"""Decide imported tickets, decide tickets again, or erase a ticket's content for good."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.reasons import stated
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.decisions.again import MAX_REVISION, Request
from tiebreak.decisions.service import DecisionService
from tiebreak.errors import InvalidInput
from tiebreak.store import reading
from tiebreak.store.erasure import erase as erase_ticket
from tiebreak.store.outcomes import TicketUnknown
from tiebreak.store.outdated import Window
from tiebreak.training.kept_snapshots import forget

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Decide imported tickets, decide tickets again, or erase a ticket's content for good."""


@app.command()
def erase(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    ticket_id: Annotated[str, typer.Argument(help="The ticket's id.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the tombstone.", callback=stated)],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; without this it is only shown.")
    ] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Erase the content of a ticket; a tombstone stays and the audit trail holds.

    Example: `tiebreak tickets erase locate 2026-0042 --reason "request of the caller" --yes`
    """

    async def work(session: Session) -> dict[str, Any]:
        found = await reading.history(session.db, workflow, ticket_id)
        if found is None:
            raise TicketUnknown(
                hint="Ticket ids are compared letter by letter.", ticket_id=ticket_id
            )
        told: dict[str, Any] = {
            "workflow": workflow,
            "ticket_id": ticket_id,
            "revisions": len(found.revisions),
            "decisions": len(found.decisions),
            "outcomes": len(found.outcomes),
            "erased_records": 0,
            "removed_snapshots": [],
        }
        if yes:
            async with session.lane.unit() as unit:
                told["erased_records"] = await erase_ticket(
                    unit, workflow, ticket_id, actor=session.person, reason=reason
                )
            # even where nothing was left to erase: a removal may have been interrupted
            told["removed_snapshots"] = forget(session.artifacts, workflow, ticket_id)
        return told

    told = act(person, work)
    counts = ", ".join(f"{told[name]} {name}" for name in ("revisions", "decisions", "outcomes"))
    done = f"Erased the content of {told['erased_records']} records: {counts}."
    if told["removed_snapshots"]:
        done += f" Removed {len(told['removed_snapshots'])} snapshots that held it."
    would = f"Would erase the content of {counts}; add --yes to do it."
    Output(as_json=json).result(told, done if yes else would)


@app.command()
def decide(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    since: Annotated[datetime, typer.Option(formats=DATES, help="First `as_of` (UTC).")],
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of `as_of` (UTC); default: now.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell how many of the window it would be.")
    ] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Decide imported tickets that have no decision, as of when they were opened.

    The policy in production decides by what was known of each ticket at its own time.

    Example: `tiebreak tickets decide boston311 --since 2017-01-01`
    """
    output = Output(as_json=json)
    begin = since.replace(tzinfo=UTC)
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)

    async def work(session: Session) -> int:
        async with _serving(session) as service:
            total = await service.count_imported(workflow, since=begin, until=end)
            if dry_run:
                return total
            with output.progress(f"Deciding {workflow}") as progress:
                return await service.decide_imported(
                    workflow,
                    since=begin,
                    until=end,
                    progress=lambda count: progress(f"{count:,} decided", count / max(total, 1)),
                )

    count = act(person, work)
    told = {"workflow": workflow, "tickets" if dry_run else "decided": count}
    text = f"Would decide {count:,} tickets." if dry_run else f"Decided {count:,} tickets."
    output.result(told, text)


@app.command()
def decide_again(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    reason: Annotated[
        str, typer.Option(help="Why; it goes into the audit journal.", callback=stated)
    ],
    ticket_id: Annotated[str | None, typer.Argument(help="One ticket's id.")] = None,
    revision: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_REVISION, help="Of the one ticket; default: its newest."),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=DATES, help="Many tickets: first `as_of` (UTC).")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of `as_of` (UTC); default: now.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell how many of the window it would be.")
    ] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Decide stored tickets again by the policy in production, as of when they came in.

    One ticket, or with --since the newest revision of every decided ticket of that time. Earlier
    decisions stay; where the newest is by this policy and engine already, it stands.

    Example: `tiebreak tickets decide-again locate --since 2026-01-01 --reason "new rules"`
    """
    output = Output(as_json=json)
    if (ticket_id is None) == (since is None):
        raise InvalidInput(
            "Neither a ticket's id nor --since is given, or both are.", hint="Give one of them."
        )
    if since is None:
        if until is not None or dry_run:
            raise InvalidInput("--until and --dry-run belong to --since.")
        assert ticket_id is not None
        _one_again(output, person, workflow, ticket_id, revision, reason)
        return
    if revision is not None:
        raise InvalidInput("--revision belongs to one ticket.")
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)
    _many_again(
        output, person, workflow, Window(since.replace(tzinfo=UTC), end), reason, dry_run=dry_run
    )


def _one_again(
    output: Output,
    person: str | None,
    workflow: str,
    ticket_id: str,
    revision: int | None,
    reason: str,
) -> None:
    async def work(session: Session) -> dict[str, Any]:
        number = revision
        if number is None:
            found = await reading.history(session.db, workflow, ticket_id)
            if found is None:
                raise TicketUnknown(
                    hint="Ticket ids are compared letter by letter.", ticket_id=ticket_id
                )
            number = found.revisions[-1]["revision"]
        async with _serving(session) as service:
            request = Request(session.person, reason)
            return await service.decide_again(workflow, ticket_id, number, request)

    told = act(person, work, needs="decide_again")
    text = (
        f"{ticket_id}, revision {told['revision']}, decision {told['ordinal']}: "
        f"{told['band']}, {told['route']}."
    )
    output.result(told, text)


def _many_again(
    output: Output,
    person: str | None,
    workflow: str,
    window: Window,
    reason: str,
    *,
    dry_run: bool,
) -> None:
    async def work(session: Session) -> int:
        async with _serving(session) as service:
            if dry_run:
                return await service.count_outdated(workflow, window)
            with output.progress(f"Deciding {workflow} again") as progress:
                return await service.decide_many_again(
                    workflow,
                    window,
                    Request(session.person, reason),
                    lambda count: progress(f"{count:,} decided", 0.0),
                )

    count = act(person, work, needs="decide_again")
    told = {"workflow": workflow, "dry_run": dry_run, "tickets": count}
    text = f"Would decide {count:,} tickets again." if dry_run else f"Decided {count:,} again."
    output.result(told, text)


@asynccontextmanager
async def _serving(session: Session) -> AsyncGenerator[DecisionService]:
    """A decision service for as long as the block runs."""
    service = await DecisionService.start(session.settings, session.keyring)
    try:
        yield service
    finally:
        await service.drain()
