"""Choose band thresholds by what people can review and what mistakes cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tiebreak.bundles.folder import write_whole
from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import Session, look
from tiebreak.core.model import Model
from tiebreak.errors import InvalidInput
from tiebreak.registry.proposals import find_digest
from tiebreak.report.documents import written
from tiebreak.training import kept_snapshots, thresholds
from tiebreak.workflows import versions

if TYPE_CHECKING:
    from rich.console import RenderableType


class ModelUnnamed(InvalidInput):
    """There is no candidate, so the model must be named."""

    code = "model_unnamed"


def command(
    workflow: Annotated[str, typer.Argument(help="The workflow's name.")],
    reviewers: Annotated[
        float, typer.Option(min=0.01, max=1e6, help="How many people review a day.")
    ],
    tickets_each: Annotated[
        float, typer.Option(min=0.01, max=1e6, help="How many tickets each can.")
    ],
    cost_missed: Annotated[
        float, typer.Option(min=0, max=1e12, help="Of a bad end nobody looked at.")
    ],
    cost_needless: Annotated[
        float, typer.Option(min=0, max=1e12, help="Of a review that found nothing.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Digest of its bundle, or the first digits; default: the candidate."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it with its curve; .md for Markdown, else HTML."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Choose the thresholds at which a day costs least with the people there are.

    Judged on the tickets that validated the model. Nothing is changed: what comes out are knobs
    to backtest and then to write into workflow.yaml.

    Example: `tiebreak thresholds locate --reviewers 12 --tickets-each 40 --cost-missed 400
    --cost-needless 15`
    """
    output = Output(as_json=json)
    terms = thresholds.Terms(reviewers * tickets_each, cost_missed, cost_needless)

    async def work(session: Session) -> dict[str, Any]:
        stored = await versions.latest(session.db, workflow)
        digest = _digest(session, workflow, model)
        loaded = Model.load(session.artifacts.open_bundle(digest, session.bundle_keys), digest)
        snapshot = kept_snapshots.load(session.artifacts, loaded.manifest["data_hash"])
        judged = thresholds.Judged.by(loaded, snapshot)
        chosen = thresholds.choose(judged, stored.workflow.knobs, terms)
        return {"workflow": workflow, "model": digest, **chosen}

    chosen = look(work)
    setting = " ".join(f"--set {knob}={value}" for knob, value in chosen["knobs"].items())
    if report is not None:
        title = f"Thresholds for {workflow}"
        for file, text in written(report, title, [thresholds.section(chosen)]).items():
            write_whole(file, text.encode())
            output.note(f"Written: {file}")
    output.result(chosen, *_told(chosen))
    output.note(
        f"Next: `tiebreak backtest run {workflow} --bundle {chosen['model'][:12]} {setting}`"
    )


def _digest(session: Session, workflow: str, model: str | None) -> str:
    if model is not None:
        return find_digest(session.artifacts, model)
    digest = session.artifacts.read_alias(workflow, "risk_model_candidate")
    if digest is None:
        raise ModelUnnamed(hint="Give --model, or train one.")
    return digest


def _told(chosen: dict[str, Any]) -> list[RenderableType]:
    knobs = [(knob, str(value)) for knob, value in chosen["knobs"].items()]
    title = f"Reviewed from {chosen['review_from']} on, of {chosen['tickets_a_day']:,.0f} a day"
    return [
        table(title, thresholds.COLUMNS, thresholds.rows(chosen)),
        table("Knobs to set", ("", ""), knobs),
    ]
