"""Take a release back."""

from __future__ import annotations

from dataclasses import asdict

from tiebreak.cli.output import JsonOption, Output, short
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.session import DryRunOption, PersonOption, ReasonOption, Session, act
from tiebreak.release import releases
from tiebreak.release.releases import Release


def command(
    release: ReleaseArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Take a release back for good; its canary decides no more.

    Example: `tiebreak release withdraw 3f2a --reason "a better one is on its way"`
    """

    async def work(session: Session) -> Release:
        found = await releases.find(session.db, release)
        office = session.office(is_rehearsal=dry_run)
        return await releases.withdraw(
            office, found.release_id, actor=session.person, reason=reason
        )

    found = act(person, work, needs="withdraw_release")
    verb = "Would withdraw" if dry_run else "Withdrawn:"
    Output(as_json=json).result(
        {"release": asdict(found), "dry_run": dry_run},
        f"{verb} release {short(found.release_id)} of {found.workflow}.",
    )
