"""Go back at once, by one person, in an emergency."""

from __future__ import annotations

from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, minute
from tiebreak.cli.release import WorkflowArgument
from tiebreak.cli.release_promote import tell
from tiebreak.cli.session import DryRunOption, PersonOption, ReasonOption, Session, act
from tiebreak.registry import records
from tiebreak.registry.records import ReleaseRecord
from tiebreak.release.demotion import DUE, Target, demote


def command(
    workflow: WorkflowArgument,
    reason: ReasonOption,
    to: Annotated[
        Target,
        typer.Option(help="The policy before this one, or this one's rules without its model."),
    ] = Target.PREVIOUS,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Take the policy in production out of it at once; every worker follows within a second.

    One person may do it alone; another one signs it within 24 hours.

    Example: `tiebreak release demote locate --to rules --reason "scores are wrong"`
    """

    async def work(session: Session) -> ReleaseRecord:
        return await demote(
            session.office(is_rehearsal=dry_run),
            workflow,
            to,
            seq=await records.seq_now(session.db, workflow),
            author=session.person,
            reason=reason,
        )

    record = act(person, work, needs="demote_production")
    output = Output(as_json=json)
    tell(output, record, is_rehearsal=dry_run)
    if not dry_run:
        output.note(
            f"Somebody else signs it by {minute(record.created_at + DUE)} UTC: "
            f"`tiebreak release countersign {workflow} --as PERSON`"
        )
