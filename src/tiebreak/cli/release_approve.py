"""Approve a release that passed its gates."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, minute, short
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.session import DryRunOption, PersonOption, Session, act
from tiebreak.release import releases
from tiebreak.release.approvals import MOST_HOURS, Approval, approve
from tiebreak.release.evaluations import Evaluation, get
from tiebreak.release.states import Stage


def command(
    release: ReleaseArgument,
    stage: Annotated[Stage, typer.Option(help="What is approved.")],
    note: Annotated[str, typer.Option(help="A remark; it stands in the approval.")] = "",
    hours: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_HOURS,
            help="How long it is valid; default, and at most: `release.approval_hours`.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Approve what the gates said last of a release that somebody else proposed.

    Example: `tiebreak release approve 3f2a --stage promotion --as bob`
    """

    async def work(session: Session) -> tuple[Approval, Evaluation]:
        found = await releases.find(session.db, release)
        given = await approve(
            session.office(is_rehearsal=dry_run),
            found.release_id,
            stage,
            approver=session.person,
            note=note,
            lifetime=None if hours is None else timedelta(hours=hours),
        )
        return given, await get(session.db, given.evaluation_id)

    given, evaluation = act(person, work, needs="approve_release")
    verb = "Would approve" if dry_run else "Approved:"
    output = Output(as_json=json)
    output.result(
        {"approval": asdict(given), "known_by": evaluation.known_by, "dry_run": dry_run},
        f"{verb} release {short(given.release_id)} for {stage}, "
        f"on gates by what was known by {minute(evaluation.known_by)} UTC, "
        f"until {minute(given.expires_at)} UTC.",
    )
    if dry_run:
        return
    start = short(given.release_id)
    if stage is Stage.CANARY:
        output.note(f"Next: `tiebreak release canary start {start}`")
    else:
        output.note(f"Next: `tiebreak release promote {start} --reason WHY`")
