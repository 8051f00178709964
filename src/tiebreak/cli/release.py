"""Bring a changed policy into production step by step, and go back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from tiebreak.cli import exits
from tiebreak.cli.output import JsonOption, Output, minute, short, table
from tiebreak.cli.session import Session, look
from tiebreak.registry.canaries import ForgedCanary
from tiebreak.registry.records import ForgedRelease, ReleaseRecord
from tiebreak.release import releases
from tiebreak.release.approvals import Approval, approvals_of
from tiebreak.release.demotion import CountersignatureOverdue, Demotion
from tiebreak.release.events import Event, events_of
from tiebreak.release.overview import Overview, overview
from tiebreak.release.releases import Release
from tiebreak.release.states import State

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
    told = {
        "production": [
            _production(workflow, record) for workflow, record in sorted(found.production.items())
        ],
        "candidates": [_candidate(found, release) for release in found.candidates],
        "demotions": [_demotion(found, demotion) for demotion in found.demotions],
        "problems": [
            {"workflow": workflow, "code": canary.code, "hint": canary.hint}
            for workflow, canary in sorted(found.canaries.items())
            if isinstance(canary, ForgedCanary)
        ],
    }
    output.result(told, *_tables(told))
    if found.overdue:
        late = found.overdue[0]
        output.note(
            f"OVERDUE: nobody has countersigned the demotion of {late.workflow} by {late.author}. "
            f"Next: `tiebreak release countersign {late.workflow} --seq {late.seq}`"
        )
        raise typer.Exit(exits.exit_code(CountersignatureOverdue()))


@app.command(name="list")
def list_(
    workflow: Annotated[str | None, typer.Option(help="Only those of this workflow.")] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    json: JsonOption = False,
) -> None:
    """List releases, newest first.

    Example: `tiebreak release list --workflow locate`
    """

    async def work(session: Session) -> list[Release]:
        return await releases.releases(session.db, workflow)

    found = [each for each in look(work) if state is None or each.state is state]
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
def show(release: ReleaseArgument, json: JsonOption = False) -> None:
    """Show a release: what it is compared with, who approved it, what happened to it.

    Example: `tiebreak release show 3f2a`
    """

    async def work(session: Session) -> tuple[Overview, Release, list[Approval], list[Event]]:
        found = await releases.find(session.db, release)
        return (
            await overview(session.db, session.keyring),
            found,
            await approvals_of(session.db, found.release_id),
            await events_of(session.db, found.release_id),
        )

    now, found, approvals, events = look(work)
    told = {
        **asdict(found),
        "percent": now.share(found),
        "is_current": now.is_current(found),
        "approvals": [asdict(approval) for approval in approvals],
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
        events_table(events),
    )
    if found.is_open and not told["is_current"]:
        output.note(
            "Production moved, so its evidence is void. "
            f"Next: `tiebreak release rebase {short(found.release_id)} --reason WHY`"
        )


def events_table(events: list[Event]) -> Any:
    """What happened to a release, for people."""
    rows = [
        (minute(event.at), event.actor, event.kind.replace("_", " "), details(event.detail))
        for event in events
    ]
    return table("What happened", ("at", "who", "what", "details"), rows)


def details(detail: Any) -> str:
    """What was noted of an event or entry, in a line."""
    return ", ".join(f"{name} {short(value)}" for name, value in detail.items() if value != "")


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
    lines = [f"  • {each['workflow']}: {each['code']}. {each['hint']}" for each in told["problems"]]
    return [*found, *lines]


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


def _production(workflow: str, record: ReleaseRecord | ForgedRelease) -> dict[str, Any]:
    if isinstance(record, ForgedRelease):
        names = ("seq", "kind", "policy", "model", "author", "approver", "since", "reason")
        return {"workflow": workflow, "state": record.code, **dict.fromkeys(names)}
    return {
        "workflow": workflow,
        "state": "production",
        "seq": record.seq,
        "kind": record.kind,
        "policy": record.policy_hash,
        "model": record.bundle_digest,
        "author": record.author,
        "approver": record.approver,
        "since": record.created_at,
        "reason": record.reason,
    }


def _candidate(found: Overview, release: Release) -> dict[str, Any]:
    now = {"percent": found.share(release), "is_current": found.is_current(release)}
    return asdict(release) | now


def _demotion(found: Overview, demotion: Demotion) -> dict[str, Any]:
    return asdict(demotion) | {"is_overdue": demotion in found.overdue}
