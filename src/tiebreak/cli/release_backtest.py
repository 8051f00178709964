"""Backtest a release's policy against what is in production now."""

from __future__ import annotations

from tiebreak.backtest.evidence import Backtest
from tiebreak.cli.backtest import tables_of
from tiebreak.cli.changes import JobsOption
from tiebreak.cli.output import JsonOption, Output, short
from tiebreak.cli.release import ReleaseArgument
from tiebreak.cli.release_propose import draft_of_release, run_backtest
from tiebreak.cli.session import PersonOption, Session, act
from tiebreak.release import releases
from tiebreak.release.releases import Release


def command(
    release: ReleaseArgument,
    jobs: JobsOption = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Backtest a release's policy against what is in production now; nothing is changed.

    Example: `tiebreak release backtest 3f2a`
    """
    output = Output(as_json=json)

    async def work(session: Session) -> tuple[Release, Backtest]:
        found = await releases.find(session.db, release)
        draft = await draft_of_release(session.office(), found)
        with output.progress(f"Backtesting {found.workflow}") as progress:
            return found, await run_backtest(session, draft, jobs, progress)

    found, made = act(person, work, needs="propose_release")
    output.result(made.as_data(), *tables_of(made))
    output.note(
        f"Next, if production moved: `tiebreak release rebase {short(found.release_id)} "
        f"--backtest {short(made.id)} --reason WHY`"
    )
