"""Ask the gates before a release's canary or promotion, and keep what they say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from tiebreak.backtest.evidence import Evidence
from tiebreak.cli import exits
from tiebreak.cli.output import JsonOption, Output, minute, short
from tiebreak.cli.release import gates_table
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.release import releases
from tiebreak.release.evaluating import Evaluated, GatesBlock, evaluate
from tiebreak.release.gate_results import Verdict
from tiebreak.release.releases import Office
from tiebreak.release.states import Stage


def command(
    release: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first digits.")],
    stage: Annotated[
        Stage | None, typer.Option(help="What comes after the gates; default: what comes next.")
    ] = None,
    known_by: Annotated[
        datetime | None,
        typer.Option(
            formats=DATES, help="Count tickets and labels known by then (UTC); default: now."
        ),
    ] = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the gates before a release's canary or promotion, and keep what they say.

    Ends with exit code 5 unless every gate passes. A moment for --known-by is kept with it; an
    answer that leaves out more than the last day of what the workflow was told cannot be approved.

    Example: `tiebreak release gates 3f2a --stage promotion`
    """
    output = Output(as_json=json)

    async def work(session: Session) -> Evaluated:
        found = await releases.find(session.db, release)
        office = Office(session.db, session.lane, session.keyring, session.library())
        evidence = Evidence.of(session.settings)
        return await evaluate(
            office,
            evidence,
            found.release_id,
            stage,
            actor=session.person,
            known_by=None if known_by is None else known_by.replace(tzinfo=UTC),
        )

    told = act(person, work, needs="evaluate_gates")
    title = f"Gates before {told.stage} of {told.release.workflow} {told.release.policy_hash[:12]}"
    title += f", by what was known by {minute(told.known_by)} UTC"
    output.result(told.as_data(), gates_table(title, told.told["gates"]))
    blocking = [result for result in told.results if result.verdict is not Verdict.PASS]
    for result in blocking:
        output.note(f"{result.gate}: {result.hint}")
    if told.evaluation is not None and told.evaluation.is_of_the_past:
        output.note("This is of the past, so nobody may approve it: ask without --known-by.")
    elif told.is_passed:
        output.note(
            "Every gate passes: somebody else than its author may approve it: "
            f"`tiebreak release approve {short(told.release.release_id)} --stage {told.stage}`"
        )
    if told.evaluation is None:
        output.note("This was not kept: the candidate cannot go on as it is.")
    if not told.is_passed:
        raise typer.Exit(exits.exit_code(GatesBlock()))
