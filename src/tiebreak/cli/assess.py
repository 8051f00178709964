"""Compare stored decisions with the outcomes known since."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from math import isnan
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.decisions.assessment import FIGURES, Assessment, assess
from tiebreak.training.resampling import Figure
from tiebreak.workflows import versions

NAMES = {"auc": "AUC", "pr_auc": "PR-AUC", "brier": "Brier score"}


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
    """Ranking and calibration of the model's scores, beside the rules' verdicts alone.

    Each figure has its 95% interval, by a seeded bootstrap of the tickets.

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
        ("mean score / bad ends", f"{model['mean_score']:.4f} / {model['base_rate']:.4f}"),
        *(
            (f"tenth {i}", f"score {part['mean_score']:.3f}, bad ends {part['positive_rate']:.3f}")
            for i, part in enumerate(model["calibration"], 1)
        ),
    ]
    title = f"{workflow}: decisions beside what became of the tickets"
    compared = [
        (NAMES[name], *(_figure(found.figures[of][name]) for of in found.figures))
        for name in FIGURES
    ]
    output = Output(as_json=json)
    output.result(
        asdict(found),
        table(title, ("", ""), rows),
        table(
            f"95% intervals, by {found.resamples:,} resamples of the tickets",
            ("", "model", "rules alone", "difference"),
            compared,
        ),
    )
    output.note("The rules' Brier score is the best that any reading of their verdicts could have.")


def _figure(figure: Figure) -> str:
    """A figure with its bounds; `undefined` where all tickets end alike."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    return "undefined" if isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"
