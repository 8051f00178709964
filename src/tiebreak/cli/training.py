"""Look at training runs, and end them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.reasons import stated
from tiebreak.cli.session import PersonOption, Session, act, look
from tiebreak.training import records

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = ("run", "workflow", "state", "started", "took", "author", "reason")

app = typer.Typer()

IdArgument = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the first digits.")]


@app.callback()
def _group() -> None:
    """Look at training runs, and end them."""


@app.command(name="list")
def list_(
    workflow: Annotated[str | None, typer.Argument(help="Only of this workflow.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most of those that ended.")] = 20,
    json: JsonOption = False,
) -> None:
    """List training runs: those that wait or run, then those that ended, newest first.

    Example: `tiebreak training list locate`
    """

    async def work(session: Session) -> list[dict[str, Any]]:
        now = await records.current(session.db, workflow)
        return [*now, *await records.ended(session.db, workflow, limit=limit)]

    found = look(work)
    rows = [
        (
            run["run_id"][:8],
            run["workflow"],
            _state(run),
            _moment(run["started_at"]),
            _seconds(run),
            run["author"],
            run["reason"],
        )
        for run in found
    ]
    Output(as_json=json).result({"runs": found}, table("Training runs", COLUMNS, rows))


@app.command()
def show(run: IdArgument, json: JsonOption = False) -> None:
    """Show a training run: how far it is, or what came of it.

    Example: `tiebreak training show 3f2a81c0`
    """

    async def work(session: Session) -> dict[str, Any]:
        return await records.get(session.db, await records.named(session.db, run))

    found = look(work)
    Output(as_json=json).result(found, _details(found))


@app.command()
def cancel(
    run: IdArgument,
    reason: Annotated[
        str, typer.Option(help="Why; it stands on the run's record.", callback=stated)
    ],
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """End a training run that waits or runs; nothing of it is kept but its record.

    Example: `tiebreak training cancel 3f2a81c0 --reason "wrong data"`
    """

    async def work(session: Session) -> uuid.UUID:
        run_id = await records.named(session.db, run)
        await session.trainer.cancel(run_id, by=session.person, reason=reason)
        return run_id

    ended = act(person, work, needs="cancel_training")
    Output(as_json=json).result(
        {"run_id": str(ended), "cancelled": True}, f"Training run {ended} is told to end."
    )


def _details(run: Mapping[str, Any]) -> RenderableType:
    metrics, tracking = run["metrics"], run["metrics"].get("tracking", {})
    who = metrics.get("cancelled_by")
    rows = [
        ("run", run["run_id"]),
        ("state", _state(run)),
        ("asked by", f"{run['author']}: {run['reason']}"),
        ("started", _moment(run["started_at"])),
        ("took", _seconds(run)),
        ("model", run["bundle_digest"] or "none"),
        ("data", run["data_hash"] or "not read"),
        ("parameters", ", ".join(f"{k} {v}" for k, v in run["parameters"].items())),
        *(
            (name, metrics[name])
            for name in ("auc", "pr_auc", "error", "message")
            if name in metrics
        ),
        *([("ended by", f"{who}: {metrics['cancel_reason']}")] if who else []),
        ("MLflow", " ".join(tracking.values()) or "not told"),
    ]
    return table(f"Training run of {run['workflow']}", ("", ""), rows)


def _state(run: Mapping[str, Any]) -> str:
    if run["state"] != "running":
        return run["state"]
    ending = f", to be ended by {run['cancelled_by']}" if run["cancelled_by"] else ""
    return f"running: {run['step']} {run['share']:.0%}{ending}"


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _seconds(run: Mapping[str, Any]) -> str:
    if run["started_at"] is None or run["finished_at"] is None:
        return ""
    return f"{(run['finished_at'] - run['started_at']).total_seconds():.1f} s"
