"""Put an approved release into production."""

from __future__ import annotations

from dataclasses import asdict

from tiebreak.cli.output import JsonOption, Output, short, table
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.session import DryRunOption, PersonOption, ReasonOption, Session, act
from tiebreak.registry.records import ReleaseRecord
from tiebreak.release import releases
from tiebreak.release.promotion import promote


def command(
    release: ReleaseArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Put a release into production by the approval of another person; servers follow at once.

    Example: `tiebreak release promote 3f2a --reason "gates passed"`
    """

    async def work(session: Session) -> ReleaseRecord:
        found = await releases.find(session.db, release)
        office = session.office(is_rehearsal=dry_run)
        return await promote(office, found.release_id, author=session.person, reason=reason)

    tell(Output(as_json=json), act(person, work, needs="promote_release"), is_rehearsal=dry_run)


def tell(output: Output, record: ReleaseRecord, *, is_rehearsal: bool) -> None:
    """What is in production now, or would be."""
    rows = [
        ("policy", record.policy_hash),
        ("model", record.bundle_digest or "none: rules decide alone"),
        ("record", f"{record.seq} ({record.kind})"),
        ("author", record.author),
        ("approver", short(record.approver)),
    ]
    title = "Would be in production of" if is_rehearsal else "In production of"
    output.result(
        {"record": asdict(record), "dry_run": is_rehearsal},
        table(f"{title} {record.workflow}", ("", ""), rows),
    )
