"""Compare stored decisions with the outcomes known since."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from math import isnan
from typing import Annotated

import typer

from tiebreak.cli.output import JsonOption, Output, short, table
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.core.policy import Policy
from tiebreak.decisions.assessment import FIGURES, Assessment, assess
from tiebreak.errors import Conflict
from tiebreak.registry import records
from tiebreak.registry.candidates import Changes, candidate
from tiebreak.training.resampling import Figure
from tiebreak.workflows import versions

NAMES = {"auc": "AUC", "pr_auc": "PR-AUC", "brier": "Brier score"}


class ModelBesideUnfit(Conflict):
    """The other model cannot score the tickets of the policy in production."""

    code = "model_beside_unfit"


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    since: Annotated[
        datetime, typer.Option(formats=DATES, help="First `as_of` that counts (UTC).")
    ] = datetime(1970, 1, 1),  # noqa: DTZ001 - read as UTC below
    until: Annotated[
        datetime | None, typer.Option(formats=DATES, help="End of `as_of` (UTC); default: now.")
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Digest of another model, or its first digits: the same tickets by that one.",
        ),
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
            beside=None if beside is None else await _policy(session, workflow, beside),
            entity_secret=session.keyring.entity_key,
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
    if found.beside is not None:
        compared = [
            (
                *row,
                _figure(found.beside["figures"][name]),
                _figure(found.beside["difference"][name]),
            )
            for row, name in zip(compared, FIGURES, strict=True)
        ]
    also = (
        ()
        if found.beside is None
        else (f"model {short(found.beside['bundle_digest'])}", "difference")
    )
    output = Output(as_json=json)
    output.result(
        asdict(found),
        table(title, ("", ""), rows),
        table(
            f"95% intervals, by {found.resamples:,} resamples of the tickets",
            ("", "model", "rules alone", "difference", *also),
            compared,
        ),
    )
    output.note("The rules' Brier score is the best that any reading of their verdicts could have.")


async def _policy(session: Session, workflow: str, digest: str) -> Policy:
    """The policy in production with another model. Raises `ModelBesideUnfit` and others."""
    now = (await records.current(session.db, session.keyring)).get(workflow)
    if isinstance(now, records.ForgedRelease):
        raise now
    library = session.library()
    parts = None if now is None else await library.parts(now.policy_hash)
    recipe = await candidate(
        session.db, library, session.artifacts, workflow, parts, Changes(bundle=digest)
    )
    loaded = await library.build(recipe.parts)
    if loaded.problem is not None:
        raise ModelBesideUnfit(loaded.problem.message, hint=loaded.problem.hint)
    return loaded.policy


def _figure(figure: Figure) -> str:
    """A figure with its bounds; `undefined` where all tickets end alike."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    return "undefined" if isnan(value) else f"{value:.3f} ({low:.3f} to {high:.3f})"
