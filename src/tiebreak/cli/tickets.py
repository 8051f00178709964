"""Decide imported tickets, or erase a ticket's content for good."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.cli.train import DATES
from tiebreak.decisions.service import DecisionService
from tiebreak.store import reading
from tiebreak.store.erasure import erase as erase_ticket
from tiebreak.store.outcomes import TicketUnknown

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Decide imported tickets, or erase a ticket's content for good."""


@app.command()
def erase(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    ticket_id: Annotated[str, typer.Argument(help="The ticket's id.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the tombstone.")],
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
            raise TicketUnknown(ticket_id=ticket_id)
        told: dict[str, Any] = {
            "workflow": workflow,
            "ticket_id": ticket_id,
            "revisions": len(found.revisions),
            "decisions": len(found.decisions),
            "outcomes": len(found.outcomes),
            "erased_records": 0,
        }
        if yes:
            async with session.lane.unit() as unit:
                told["erased_records"] = await erase_ticket(
                    unit, workflow, ticket_id, actor=session.person, reason=reason
                )
        return told

    told = act(person, work)
    counts = ", ".join(f"{told[name]} {name}" for name in ("revisions", "decisions", "outcomes"))
    done = f"Erased the content of {told['erased_records']} records: {counts}."
    would = f"Would erase the content of {counts}; add --yes to do it."
    Output(as_json=json).result(told, done if yes else would)


@app.command()
def decide(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    since: Annotated[datetime, typer.Option(formats=DATES, help="First `as_of` (UTC).")],
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of `as_of` (UTC); default: now.")
    ] = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Decide imported tickets that have no decision, as of when they were opened.

    The policy in production decides by what was known of each ticket at its own time.

    Example: `tiebreak tickets decide boston311 --since 2017-01-01`
    """
    output = Output(as_json=json)
    end = datetime.now(UTC) if until is None else until.replace(tzinfo=UTC)

    async def work(session: Session) -> int:
        service = await DecisionService.start(session.settings, session.keyring)
        try:
            with output.progress(f"Deciding {workflow}") as progress:
                return await service.decide_imported(
                    workflow,
                    since=since.replace(tzinfo=UTC),
                    until=end,
                    progress=lambda count: progress(f"{count:,} decided", 0.0),
                )
        finally:
            await service.drain()

    count = act(person, work)
    output.result({"workflow": workflow, "decided": count}, f"Decided {count:,} tickets.")
