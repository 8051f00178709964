"""Decide stored tickets again by their own policies and compare every bit."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy import func, select

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.session import MOST, Session, look
from tiebreak.decisions.replay import Cause, ReplayReport, replay
from tiebreak.errors import IntegrityFailure, InvalidInput, NotFound
from tiebreak.store import reading, tables
from tiebreak.store.reading import Row
from tiebreak.workflows import versions

SAMPLE = 1_000


class ReplayDiffers(IntegrityFailure):
    """Some decisions could not be replayed identically, and no expected cause explains it."""

    code = "replay_differs"


class UnknownDecision(NotFound):
    """There is no decision with this id."""

    code = "unknown_decision"


def command(
    workflow: Annotated[str | None, typer.Option(help="Only decisions of this workflow.")] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help=f"This many decisions, at random; default: {SAMPLE}."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every decision.")] = False,
    id_: Annotated[str | None, typer.Option("--id", help="This one decision.")] = None,
    json: JsonOption = False,
) -> None:
    """Replay decisions: bit-identical, or with a named cause. Fails when a difference has none.

    Example: `tiebreak replay --workflow locate --sample 1000`
    """
    if sum((sample is not None, all_, id_ is not None)) > 1:
        raise InvalidInput("--sample, --all and --id exclude each other.", hint="Give one of them.")
    output = Output(as_json=json)

    async def work(session: Session) -> tuple[ReplayReport, float]:
        if id_ is not None:
            pairs, total = _one(session, id_), 1
        else:
            if workflow is not None:
                await versions.latest(session.db, workflow)
            wanted = None if all_ else sample or SAMPLE
            pairs = reading.pairs(session.db, workflow, sample=wanted)
            total = min(await _count(session, workflow), wanted or 1 << 62)
        with output.progress("Replaying") as progress:
            done = 0

            def count(more: int) -> None:
                nonlocal done
                done += more
                progress(f"{done:,} decisions", min(done / max(total, 1), 1.0))

            begun = time.monotonic()
            report = await replay(pairs, session.library(), count)
            return report, time.monotonic() - begun

    report, seconds = look(work)
    if not report.is_clean:
        raise ReplayDiffers(
            f"{_differing(report):,} of {report.total:,} replayed decisions differ.",
            hint="Look at each with `tiebreak replay --id`; run `tiebreak audit verify`.",
            decisions=[_shown(each) for each in report.unexpected],
        )
    rows = [(cause.value.replace("_", " "), f"{n:,}") for cause, n in report.counts.items()]
    output.result(as_data(report, seconds), table("Replayed", ("", "decisions"), rows))


def as_data(report: ReplayReport, seconds: float) -> dict[str, Any]:
    """A report as plain data."""
    return {
        "replayed": report.total,
        "identical": report.counts[Cause.IDENTICAL],
        "causes": {cause.value: count for cause, count in report.counts.items()},
        "seconds": round(seconds, 3),
        "decisions_per_second": round(report.total / seconds, 1) if seconds else None,
    }


def _differing(report: ReplayReport) -> int:
    expected = (Cause.IDENTICAL, Cause.FINGERPRINT, Cause.ERASED)
    return report.total - sum(report.counts[cause] for cause in expected)


def _shown(replayed: Any) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(replayed).items() if value}


async def _one(session: Session, text: str) -> AsyncGenerator[Sequence[tuple[Row, Row]]]:
    try:
        decision = await reading.decision(session.db, uuid.UUID(text))
    except ValueError:
        decision = None
    if decision is None:
        raise UnknownDecision(
            hint="Answers carry it, and GET /v1/workflows/WORKFLOW/decisions lists them.",
            decision_id=text,
        )
    key = (decision["workflow"], decision["ticket_id"], decision["revision"])
    ticket = await reading.ticket(session.db, *key)
    if ticket is None:
        raise UnknownDecision(
            "The decision's ticket is missing.",
            hint="`tiebreak audit verify` names what is broken.",
            decision_id=text,
        )
    yield [(decision, ticket)]


async def _count(session: Session, workflow: str | None) -> int:
    query = select(func.count()).select_from(tables.decisions)
    if workflow is not None:
        query = query.where(tables.decisions.c.workflow == workflow)
    async with session.db.read() as conn:
        return (await conn.execute(query)).scalar_one()
