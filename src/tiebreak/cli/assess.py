"""Compare stored decisions with the outcomes known since."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.decisions.assessment import Assessment, assess
from tiebreak.workflows import versions


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    since: Annotated[
        datetime, typer.Option(formats=DATES, help="First `as_of` that counts (UTC).")
    ] = datetime(1970, 1, 1),  # noqa: DTZ001 - read as UTC below
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of `as_of` (UTC); default: now.")
    ] = None,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Ranking and calibration of the model's scores, beside the rules' points alone.

    Example: `tiebreak assess locate --since 2026-01-01`
    """
    now = datetime.now(UTC)
    end = now if until is None else until.replace(tzinfo=UTC)

    async def work(session: Session) -> Assessment:
        stored = await versions.latest(session.db, workflow)
        return await assess(
            session.db,
            stored.workflow,
            since=since.replace(tzinfo=UTC),
            until=end,
            known_by=now,
        )

    found = act(person, work)
    model = found.model
    rows = [
        ("decisions with a mature label", f"{model['rows']:,}, {model['positives']:,} bad ends"),
        ("AUC", f"{_figure(model['auc'])} (rules alone {_figure(found.rules_auc)})"),
        ("PR-AUC", f"{_figure(model['pr_auc'])} (rules alone {_figure(found.rules_pr_auc)})"),
        ("mean score / bad ends", f"{model['mean_score']:.4f} / {model['base_rate']:.4f}"),
        ("Brier score", f"{model['brier']:.4f}"),
        *(
            (f"tenth {i}", f"score {part['mean_score']:.3f}, bad ends {part['positive_rate']:.3f}")
            for i, part in enumerate(model["calibration"], 1)
        ),
    ]
    title = f"{workflow}: decisions beside what became of the tickets"
    Output(as_json=json).result(asdict(found), table(title, ("", ""), rows))


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
