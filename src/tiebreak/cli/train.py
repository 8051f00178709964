"""Train a model on what is stored, and sign it as the workflow's candidate."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import DATES, PersonOption, Session, act
from tiebreak.core.workflow import FamilyChoice
from tiebreak.training import queue, records
from tiebreak.training.fit import DEEPEST, Parameters
from tiebreak.training.requests import Request
from tiebreak.training.runs import Run
from tiebreak.training.turns import Turn
from tiebreak.workflows import versions

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULTS = Parameters(valid_from=datetime.max.replace(tzinfo=UTC))


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    reason: Annotated[str, typer.Option(help="Why; it stands on the run's record.")] = "training",
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
    family: Annotated[
        FamilyChoice | None,
        typer.Option(help="`best` trains both and takes the better one; default: the workflow's."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same data and seed give the same bytes.")] = 0,
    trees: Annotated[int, typer.Option(min=1, max=2000, help="Most trees.")] = DEFAULTS.rounds,
    depth: Annotated[int, typer.Option(min=1, max=DEEPEST)] = DEFAULTS.max_depth,
    learning_rate: Annotated[float, typer.Option(min=0.001, max=1)] = DEFAULTS.learning_rate,
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
        DEFAULTS, seed=seed, rounds=trees, max_depth=depth, learning_rate=learning_rate
    )

    async def asked(session: Session) -> Request:
        stored = await versions.latest(session.db, workflow)
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
        turn = act(person, queued)
        output.result(records.waiting(turn), f"Queued: training run {turn.run_id}.")
        output.note(f"Next: `tiebreak training show {str(turn.run_id)[:8]}`")
        return
    run = act(person, trained)
    output.result(as_data(run), metrics_table(run))
    if run.tracked.status != "tracked":
        output.note(f"MLflow does not know of this run: {run.tracked.detail}")
    output.note(
        f"Next: `tiebreak release propose {workflow} --bundle {run.digest[:12]} --reason WHY`, "
        f"or for the first policy `tiebreak release install {workflow} --approved-by PERSON "
        "--reason WHY`"
    )


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
