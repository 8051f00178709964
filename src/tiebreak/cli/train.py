"""Train a model on what is stored, and sign it as the workflow's candidate."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.reasons import stated
from tiebreak.cli.reports import write
from tiebreak.cli.session import DATES, MOST, PersonOption, Session, act
from tiebreak.core.workflow import FamilyChoice
from tiebreak.errors import InvalidInput
from tiebreak.settings import Settings
from tiebreak.training import queue, records
from tiebreak.training.fit import DEEPEST, Parameters
from tiebreak.training.requests import Request
from tiebreak.training.runs import Run
from tiebreak.training.turns import Turn
from tiebreak.workflows import versions

if TYPE_CHECKING:
    from rich.console import RenderableType

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


class BudgetUnfit(InvalidInput):
    """This is no budget for a search."""

    code = "budget_unfit"


DEFAULTS = Parameters(valid_from=datetime.max.replace(tzinfo=UTC))


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    reason: Annotated[
        str, typer.Option(help="Why; it stands on the run's record.", callback=stated)
    ],
    known_by: Annotated[
        datetime | None,
        typer.Option(formats=DATES, help="Use only what was known by then (UTC); default: now."),
    ] = None,
    valid_from: Annotated[
        datetime | None,
        typer.Option(
            formats=DATES,
            help="Tickets from then on (UTC) only validate; default: the latest fifth.",
        ),
    ] = None,
    train_from: Annotated[
        datetime | None,
        typer.Option(
            formats=DATES, help="Leave out tickets before then (UTC), such as before a change."
        ),
    ] = None,
    tune_from: Annotated[
        datetime | None,
        typer.Option(
            formats=DATES,
            help="Tickets from then on (UTC) stop and calibrate the trees, and only labels known "
            "by then teach; default: the last fifth before validation.",
        ),
    ] = None,
    family: Annotated[
        FamilyChoice | None,
        typer.Option(help="`best` trains all but `ebm`, takes the best; default: the workflow's."),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST,
            help="Version of the workflow; default: the newest that was loaded, or that "
            "came into production.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST, help="Same data and seed give the same bytes.")
    ] = 0,
    trees: Annotated[int, typer.Option(min=1, max=2000, help="Most trees.")] = DEFAULTS.rounds,
    depth: Annotated[int, typer.Option(min=1, max=DEEPEST)] = DEFAULTS.max_depth,
    learning_rate: Annotated[float, typer.Option(min=0.001, max=1)] = DEFAULTS.learning_rate,
    tune: Annotated[
        str | None, typer.Option(metavar="TIME", help="Search parameters for so long: 20m.")
    ] = None,
    trials: Annotated[
        int,
        typer.Option(
            min=0, max=MOST, help="Search parameters by so many trials, over all families."
        ),
    ] = 0,
    waive_leakage: Annotated[
        list[str] | None,
        typer.Option(metavar="FEATURE", help="Train though it leaks; --reason says why."),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Compare all families there; .md for Markdown."),
    ] = None,
    reviews_a_day: Annotated[
        float | None,
        typer.Option(
            min=0, max=1e9, help="What people can review, for the report; default: a tenth."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Let the task worker train, and return at once.")
    ] = False,
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model and sign it as the workflow's candidate; nothing goes into production.

    It trains in a process of its own with limits on memory and time, one at a time a workflow.
    Ctrl-C, or `tiebreak training cancel`, ends it; every run is on record.

    Example: `tiebreak train locate --known-by 2026-06-30 --reason "monthly training"`
    """
    output = Output(as_json=json)
    parameters = replace(
        DEFAULTS,
        seed=seed,
        train_from=_utc(train_from),
        tune_from=_utc(tune_from),
        rounds=trees,
        max_depth=depth,
        learning_rate=learning_rate,
        trials=trials,
        tune_seconds=_tune_seconds(tune, trials),
        waived=dict.fromkeys(waive_leakage or [], reason),
        is_compared=bool(report),
        reviews_a_day=reviews_a_day,
    )

    async def asked(session: Session) -> Request:
        stored = (
            await versions.latest(session.db, workflow)
            if version is None
            else await versions.get(session.db, workflow, version)
        )
        return Request(
            workflow=workflow,
            workflow_version=stored.workflow.version,
            known_by=_utc(known_by) or datetime.now(UTC),
            valid_from=_utc(valid_from),
            family=family,
            parameters=parameters,
            author=session.person,
            reason=reason,
        )

    async def queued(session: Session) -> Turn:
        turn = await session.trainer.queue(await asked(session))
        queue.send(session.settings, turn.run_id)
        return turn

    async def trained(session: Session) -> Run:
        with output.progress(f"Training {workflow}") as progress:
            return await session.trainer.run(await asked(session), progress)

    if detach:
        turn = act(person, queued, needs="start_training")
        output.result(records.waiting(turn), f"Queued: training run {turn.run_id}.")
        output.note(f"Next: `tiebreak training show {str(turn.run_id)[:8]}`")
        if report:
            output.note("Then: `tiebreak reports show MODEL --to FILE`")
        return
    run = act(person, trained, needs="start_training")
    output.result(as_data(run), metrics_table(run))
    if run.tracked.status != "tracked":
        output.note(f"MLflow does not know of this run: {run.tracked.detail}")
    for file in report or []:
        write(
            orjson.loads(ArtifactStore.of(Settings.load()).read_report(run.digest)),
            file,
            output,
        )
    output.note(
        f"Next: `tiebreak release propose {workflow} --bundle {run.digest[:12]} --reason WHY`, "
        f"beside the rules that `tiebreak release install {workflow} --model none --approved-by "
        "PERSON --reason WHY` puts into production first"
    )


def _tune_seconds(text: str | None, trials: int) -> float | None:
    """A time such as 90s, 20m or 2h; it and a number of trials exclude each other."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if trials or unit not in _UNITS or not number.replace(".", "", 1).isdecimal():
        raise BudgetUnfit(hint="Give either `--tune 20m` (s, m or h) or `--trials 40`.")
    if not (seconds := float(number) * _UNITS[unit]):
        raise BudgetUnfit("No time is given to search in.", hint="Such as `--tune 20m`.")
    return seconds


def as_data(run: Run) -> dict[str, Any]:
    """A run as plain data."""
    kept = (
        "family",
        "families",
        "rows",
        "trees",
        "seed",
        "data_hash",
        "metrics",
        "parity",
        "leakage",
        "versions",
    )
    return {
        "run_id": str(run.run_id),
        "workflow": run.workflow,
        "bundle_digest": run.digest,
        "tracking": asdict(run.tracked),
        **{name: run.manifest[name] for name in kept},
    }


def metrics_table(run: Run) -> RenderableType:
    """A run's figures for people."""
    metrics, rows = run.manifest["metrics"], run.manifest["rows"]
    figures = [
        ("model", run.digest[:12]),
        ("trained on", f"{rows['training']:,} tickets"),
        ("stopped and calibrated on", f"{rows['tuning']:,} tickets"),
        ("validated on", f"{rows['validation']:,} tickets, {metrics['positives']:,} bad ends"),
        ("family", run.manifest["family"]),
        *_comparison(run.manifest["families"]),
        ("trees", run.manifest["trees"]),
        ("AUC", _figure(metrics["auc"])),
        ("PR-AUC", f"{_figure(metrics['pr_auc'])} (by chance {metrics['base_rate']:.3f})"),
        ("mean score / bad ends", f"{metrics['mean_score']:.4f} / {metrics['base_rate']:.4f}"),
        ("Brier score", f"{metrics['brier']:.4f}"),
    ]
    return table(f"Model for {run.workflow}, on tickets it has not seen", ("", ""), figures)


def _comparison(families: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """The figures by which the family was chosen, where there was a choice."""
    if len(families) == 1:
        return []
    return [(f"PR-AUC of {name}", _figure(one["pr_auc"])) for name, one in families.items()]


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
