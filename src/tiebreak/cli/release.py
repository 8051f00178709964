"""Bring a changed policy into production step by step, and go back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import orjson
import typer

from tiebreak.cli import exits
from tiebreak.cli.output import JsonOption, Output, minute, short, table
from tiebreak.cli.session import Session, look
from tiebreak.release import releases
from tiebreak.release.approvals import Approval, approvals_of
from tiebreak.release.demotion import CountersignatureOverdue, late_signature
from tiebreak.release.evaluations import Evaluation, newest
from tiebreak.release.events import ACTIONS, Event, events_of
from tiebreak.release.overview import Overview, overview
from tiebreak.release.releases import Release
from tiebreak.release.states import Stage, State
from tiebreak.store import journal
from tiebreak.workflows import versions

app = typer.Typer()

ReleaseArgument = Annotated[str, typer.Argument(metavar="ID", help="Its id, or the first digits.")]
WorkflowArgument = Annotated[str, typer.Argument(help="The workflow's name.")]


@app.callback()
def _group() -> None:
    """Bring a changed policy into production step by step, and go back."""


@app.command()
def status(json: JsonOption = False) -> None:
    """Show what is in production, the open candidates, and demotions that await a signature.

    Ends with exit code 5 while the second signature of a demotion is overdue.

    Example: `tiebreak release status`
    """
    output = Output(as_json=json)
    found = look(lambda session: overview(session.db, session.keyring))
    told = found.as_data()
    output.result(told, *_tables(told))
    if found.overdue:
        for late in map(late_signature, found.overdue):
            output.note(f"OVERDUE: {late.message} {late.hint}")
        raise typer.Exit(exits.exit_code(CountersignatureOverdue()))


@app.command(name="list")
def list_(
    workflow: Annotated[str | None, typer.Option(help="Only those of this workflow.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    author: Annotated[str | None, typer.Option(help="Only those by this person.")] = None,
    json: JsonOption = False,
) -> None:
    """List releases, newest first.

    Example: `tiebreak release list --workflow locate`
    """

    async def work(session: Session) -> list[Release]:
        return await releases.releases(session.db, workflow)

    found = [
        each for each in look(work) if state in (None, each.state) and author in (None, each.author)
    ]
    rows = [
        (
            short(each.release_id),
            each.workflow,
            each.state,
            short(each.policy_hash),
            each.author,
            minute(each.created_at),
            each.reason,
        )
        for each in found
    ]
    columns = ("release", "workflow", "state", "policy", "author", "proposed", "reason")
    told = {"releases": [asdict(each) for each in found]}
    Output(as_json=json).result(told, table("Releases", columns, rows))


@app.command()
def history(
    workflow: Annotated[
        str | None, typer.Argument(help="The workflow's name; default: all of them.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most entries.")] = 50,
    json: JsonOption = False,
) -> None:
    """Show who did what to releases and to what is in production, newest first.

    Example: `tiebreak release history locate`
    """

    async def work(session: Session) -> list[journal.Row]:
        if workflow is None:
            filters = journal.Filters(actions=ACTIONS)
        else:
            await versions.latest(session.db, workflow)
            filters = journal.Filters(actions=ACTIONS, subject=f"{workflow}/")
        return await journal.entries(session.db, filters, limit=limit)

    entries = [row | {"detail": orjson.loads(row["detail"])} for row in look(work)]
    rows = [
        (
            minute(each["at"]),
            each["actor"],
            each["action"],
            each["subject"].partition("/")[0],
            short(each["subject"].partition("/")[2]),
            details(each["detail"]),
        )
        for each in entries
    ]
    columns = ("at", "who", "what", "workflow", "policy", "details")
    title = f"What happened to {workflow or 'all workflows'}"
    Output(as_json=json).result({"entries": entries}, table(title, columns, rows))


@app.command()
def show(release: ReleaseArgument, json: JsonOption = False) -> None:
    """Show a release: what it is compared with, what its gates said last, who approved it.

    Example: `tiebreak release show 3f2a`
    """

    async def work(session: Session) -> _Shown:
        db = session.db
        found = await releases.find(db, release)
        asked = [await newest(db, found.release_id, stage) for stage in Stage]
        return _Shown(
            await overview(db, session.keyring),
            found,
            await approvals_of(db, found.release_id),
            await events_of(db, found.release_id),
            sorted(filter(None, asked), key=lambda each: each.evaluated_at),
        )

    seen = look(work)
    now, found, approvals, events = seen.now, seen.release, seen.approvals, seen.events
    told = {
        **asdict(found),
        "percent": now.share(found),
        "is_current": now.is_current(found),
        "approvals": [asdict(approval) for approval in approvals],
        "evaluations": {
            each.stage.value: {**asdict(each), "known_by": each.known_by}
            for each in seen.evaluations
        },
        "events": [asdict(event) for event in events],
    }
    subject = [
        ("release", found.release_id),
        ("workflow", found.workflow),
        ("state", found.state),
        ("policy", found.policy_hash),
        ("backtest", short(found.backtest_id)),
        ("compared with", f"record {found.base_seq} of production"),
        ("canary share", f"{told['percent']}%"),
        ("author", found.author),
        ("reason", found.reason),
    ]
    rows = [
        (each.stage, each.approver, minute(each.given_at), minute(each.expires_at), each.note)
        for each in approvals
    ]
    columns = ("stage", "approver", "given", "expires", "note")
    output = Output(as_json=json)
    output.result(
        told,
        table("Release", ("", ""), subject),
        table("Approvals", columns, rows),
        *(evaluation_table(each) for each in seen.evaluations[-1:]),
        events_table(events),
    )
    if found.is_open and not told["is_current"]:
        output.note(
            "Production moved, so its evidence is void. "
            f"Next: `tiebreak release rebase {short(found.release_id)} --reason WHY`"
        )


@dataclass(frozen=True)
class _Shown:
    """All that is shown of a release."""

    now: Overview
    release: Release
    approvals: list[Approval]
    events: list[Event]
    evaluations: list[Evaluation]  # the newest of each stage, the newest one last


def evaluation_table(evaluation: Evaluation) -> Any:
    """What the gates said and was kept, for people."""
    verb = "pass" if evaluation.is_passed else "block"
    title = f"The gates before {evaluation.stage} {verb} ({minute(evaluation.evaluated_at)} UTC, "
    title += f"by what was known by {minute(evaluation.known_by)} UTC)"
    if evaluation.is_of_the_past:
        title += ": of the past, nobody may approve it"
    return gates_table(title, evaluation.results.get("gates", ()))


def gates_table(title: str, gates: Sequence[Mapping[str, Any]]) -> Any:
    """The answers of gates, for people."""
    rows = [
        (g["gate"], g["verdict"], _number(g["figure"]), _number(g["limit"]), g["sentence"])
        for g in gates
    ]
    return table(title, ("gate", "verdict", "figure", "limit", "what it saw"), rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


def events_table(events: list[Event]) -> Any:
    """What happened to a release, for people."""
    rows = [
        (minute(event.at), event.actor, event.kind.replace("_", " "), details(event.detail))
        for event in events
    ]
    return table("What happened", ("at", "who", "what", "details"), rows)


def details(detail: Any) -> str:
    """What was noted of an event or entry, in a line."""
    return ", ".join(f"{name} {short(value)}" for name, value in detail.items() if value)


def _tables(told: dict[str, Any]) -> list[Any]:
    columns = ("workflow", "state", "kind", "policy", "model", "author", "approver", "since")
    shown = [[short(row[column]) for column in columns] for row in told["production"]]
    found = [table("In production", columns, shown)]
    if told["candidates"]:
        columns = ("release", "workflow", "state", "canary", "policy", "author", "proposed", "")
        found.append(table("Candidates", columns, [_row(each) for each in told["candidates"]]))
    if told["demotions"]:
        columns = ("workflow", "seq", "author", "demoted", "signature due", "reason")
        rows = [
            (
                each["workflow"],
                each["seq"],
                each["author"],
                minute(each["created_at"]),
                minute(each["due_at"]) + (" OVERDUE" if each["is_overdue"] else ""),
                each["reason"],
            )
            for each in told["demotions"]
        ]
        found.append(table("Demotions without a second signature", columns, rows))
    ungated = [each for each in told["production"] if each["model"] and not each["is_gated"]]
    return [
        *found,
        *(f"  • {each['workflow']}: its model was installed without gates." for each in ungated),
        *(f"  • {each['message']} {each['hint']}" for each in told["problems"]),
    ]


def _row(each: dict[str, Any]) -> tuple[object, ...]:
    return (
        short(each["release_id"]),
        each["workflow"],
        each["state"],
        f"{each['percent']}%",
        short(each["policy_hash"]),
        each["author"],
        minute(each["created_at"]),
        "" if each["is_current"] else "production moved: rebase it",
    )
