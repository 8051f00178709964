"""Propose a changed policy, with the backtest of exactly it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.backtest.orders import Orders
from tiebreak.backtest.outcomes import MINUTES_A_REVIEW
from tiebreak.backtest.run import Runner
from tiebreak.cli.changes import (
    BundleOption,
    FolderOption,
    JobsOption,
    KnobsOption,
    PolicyOption,
    changes_of,
)
from tiebreak.cli.output import JsonOption, Output, Progress, short, table
from tiebreak.cli.release import WorkflowArgument
from tiebreak.cli.session import DryRunOption, PersonOption, ReasonOption, Session, act
from tiebreak.registry.candidates import Changes
from tiebreak.release import drafts, releases
from tiebreak.release.drafts import Draft
from tiebreak.release.releases import Office, Release

BacktestOption = Annotated[
    str | None,
    typer.Option(
        "--backtest",
        metavar="ID",
        help="Evidence of exactly this policy; default: the newest one there is, else it is run.",
    ),
]


def command(
    workflow: WorkflowArgument,
    reason: ReasonOption,
    policy: PolicyOption = None,
    folder: FolderOption = None,
    bundle: BundleOption = None,
    set_: KnobsOption = None,
    backtest: BacktestOption = None,
    jobs: JobsOption = None,
    dry_run: DryRunOption = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Propose a changed policy as a release; parts that are not given are those in production.

    It is backtested against what is in production unless there is such evidence, and what is new of
    its versions is stored with the release. With --backtest alone, the policy is the one that was
    backtested.

    Example: `tiebreak release propose locate --set points.high=36 --reason "fewer reviews"`
    """
    output = Output(as_json=json)
    changes = changes_of(policy, folder, bundle, set_)
    is_unchanged = changes == Changes(knobs={})

    async def work(session: Session) -> tuple[Draft, Backtest | None, Release | None]:
        office = session.office()
        evidence = Evidence.of(session.settings)
        made = None if backtest is None else evidence.get(backtest)
        if made is not None and is_unchanged:
            draft = await drafts.draft_of_backtest(office, Orders.of(session.settings), made)
        else:
            draft = await drafts.draft(office, session.artifacts, workflow, changes)
        if made is None:
            made = drafts.evidence_of(evidence, draft)
        else:
            releases.check_backtest(draft.parts, made, draft.production_hash)
        if dry_run:
            return draft, made, None
        await drafts.check_history(office, draft)
        with output.progress(f"Backtesting {workflow}") as progress:
            made = made or await run_backtest(session, draft, jobs, progress)
        release = await releases.propose(
            office, draft.recipe, made, author=session.person, reason=reason
        )
        return draft, made, release

    draft, made, release = act(person, work, needs="propose_release")
    tell(output, draft, made, release)


async def run_backtest(
    session: Session, draft: Draft, jobs: int | None, progress: Progress
) -> Backtest:
    """Backtest a draft as `tiebreak backtest run` does by default."""
    runner = Runner(session.db, session.lane, session.settings, session.bundle_keys, session.person)
    return await drafts.backtested(
        runner,
        draft,
        jobs=jobs or len(os.sched_getaffinity(0)),
        minutes_a_review=MINUTES_A_REVIEW,
        progress=progress,
    )


async def draft_of_release(office: Office, release: Release) -> Draft:
    """The release's policy, to be compared with what is in production now."""
    return await drafts.draft_of(office, await office.library.parts(release.policy_hash))


def tell(output: Output, draft: Draft, made: Backtest | None, release: Release | None) -> None:
    """What was proposed, or would be."""
    parts = draft.parts
    told: dict[str, Any] = {
        "workflow": parts.workflow,
        "policy_hash": parts.hash,
        "changes": [asdict(change) for change in draft.changes],
        "backtest": None if made is None else made.id,
        "backtest_tickets": None if made is None else made.evidence["figures"]["tickets"],
        "release": None if release is None else asdict(release),
        "dry_run": release is None,
    }
    rows = [(each.part, short(each.before), short(each.after)) for each in draft.changes]
    title = "Would propose" if release is None else f"Release {short(release.release_id)}:"
    heading = f"{title} {parts.workflow} policy {short(parts.hash)}"
    if made is None:
        line = "Backtest: would be run."
    else:
        figures = made.evidence["figures"]
        line = (
            f"Its evidence is backtest {short(made.id)} of {figures['tickets']:,} tickets, made "
            f"{str(made.run.get('finished_at'))[:16]}: {figures['flips']:,} flip."
        )
    output.result(told, table(heading, ("part", "before", "after"), rows), line)
    if release is not None:
        start = short(release.release_id)
        output.note(
            f"Next: `tiebreak release shadow start {start}`; when it has scored enough, "
            f"`tiebreak release gates {start}`"
        )
