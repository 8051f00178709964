"""Erase a ticket's content for good."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.store import reading
from tiebreak.store.erasure import erase as erase_ticket
from tiebreak.store.outcomes import TicketUnknown

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Erase a ticket's content for good."""


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
