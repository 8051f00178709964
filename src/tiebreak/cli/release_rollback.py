"""Put an earlier policy back into production, by two persons."""

from __future__ import annotations

from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.release import WorkflowArgument
from tiebreak.cli.release_promote import tell
from tiebreak.cli.session import (
    DryRunOption,
    PersonOption,
    ReasonOption,
    Session,
    act,
    require_role,
)
from tiebreak.registry import records
from tiebreak.registry.candidates import find_policy
from tiebreak.registry.records import ReleaseRecord
from tiebreak.release.promotion import rollback


def command(
    workflow: WorkflowArgument,
    to: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="Hash of a policy that was in production, or its first digits; "
            "`tiebreak release history` names them.",
        ),
    ],
    approved_by: Annotated[str, typer.Option(help="Another person, who approves it.")],
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Put an earlier policy back into production, by two persons.

    Example: `tiebreak release rollback locate --to 9c11 --approved-by bob --reason "too strict"`
    """

    async def work(session: Session) -> ReleaseRecord:
        await require_role(session.db, approved_by, "approve_release")
        return await rollback(
            session.office(is_rehearsal=dry_run),
            workflow,
            await find_policy(session.db, to),
            seq=await records.seq_now(session.db, workflow),
            author=session.person,
            approver=approved_by,
            reason=reason,
        )

    tell(Output(as_json=json), act(person, work, needs="rollback_production"), is_rehearsal=dry_run)
