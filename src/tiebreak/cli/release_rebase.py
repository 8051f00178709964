"""Propose the policy of a release anew, after production moved."""

from __future__ import annotations

from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.cli.changes import JobsOption
from tiebreak.cli.output import JsonOption, Output
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.release_propose import BacktestOption, draft_of_release, run_backtest, tell
from tiebreak.cli.session import DryRunOption, PersonOption, ReasonOption, Session, act
from tiebreak.registry import records
from tiebreak.release import drafts, releases
from tiebreak.release.drafts import Draft
from tiebreak.release.releases import Release, StillCurrent


def command(
    release: ReleaseArgument,
    reason: ReasonOption,
    backtest: BacktestOption = None,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Propose the policy of a release anew, because production moved; the old one is voided.

    Example: `tiebreak release rebase 3f2a --reason "production moved"`
    """
    output = Output(as_json=json)

    async def work(session: Session) -> tuple[Draft, Backtest | None, Release | None]:
        old = await releases.find(session.db, release)
        if await records.seq_now(session.db, old.workflow) == old.base_seq:
            raise StillCurrent(hint="Go on with the release.", release=str(old.release_id))
        office = session.office()
        draft = await draft_of_release(office, old)
        evidence = Evidence.of(session.settings)
        if backtest is not None:
            made = evidence.get(backtest)
            releases.check_backtest(draft.parts, made, draft.production_hash)
        else:
            made = drafts.evidence_of(evidence, draft)
        if dry_run:
            return draft, made, None
        with output.progress(f"Backtesting {old.workflow}") as progress:
            made = made or await run_backtest(session, draft, jobs, progress)
        new = await releases.rebase(
            office, old.release_id, made, author=session.person, reason=reason
        )
        return draft, made, new

    tell(output, *act(person, work, needs="rebase_release"))
