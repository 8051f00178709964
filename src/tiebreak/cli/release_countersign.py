"""Sign another person's demotion."""

from __future__ import annotations

from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.release import WorkflowArgument
from tiebreak.cli.session import MOST, DryRunOption, PersonOption, Session, act
from tiebreak.release.demotion import NoSuchDemotion, countersign, unsigned


def command(
    workflow: WorkflowArgument,
    seq: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="Number of the record; default: the oldest without signature."
        ),
    ] = None,
    note: Annotated[str, typer.Option(help="A remark; it stands beside the signature.")] = "",
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Sign another person's demotion, which is due within 24 hours of it.

    Example: `tiebreak release countersign locate --as bob`
    """

    async def work(session: Session) -> int:
        waiting = [each.seq for each in await unsigned(session.db) if each.workflow == workflow]
        if seq is None and not waiting:
            raise NoSuchDemotion(
                "No demotion of this workflow awaits a signature.",
                hint="`tiebreak release history` shows what happened.",
                workflow=workflow,
            )
        wanted = waiting[0] if seq is None else seq
        office = session.office(is_rehearsal=dry_run)
        await countersign(office, workflow, wanted, signer=session.person, note=note)
        return wanted

    signed = act(person, work, needs="countersign_demotion")
    verb = "Would sign" if dry_run else "Signed:"
    Output(as_json=json).result(
        {"workflow": workflow, "seq": signed, "dry_run": dry_run},
        f"{verb} the demotion of {workflow} in record {signed}.",
    )
