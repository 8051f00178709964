"""Check, load and look at workflows.

A workflow is a folder of YAML files; `docs/howto/write-a-workflow.md` describes them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.cli.reasons import stated
from tiebreak.cli.session import MOST, PersonOption, Session, act, look
from tiebreak.core.workflow import HistoryFeature, RowFeature, RuleSet, Workflow
from tiebreak.store.database import Database
from tiebreak.workflows import versions
from tiebreak.workflows.check import Checked, check_folder

T = TypeVar("T")

app = typer.Typer()

FolderArgument = Annotated[Path, typer.Argument(help="The workflow's folder.", metavar="PATH")]
NameArgument = Annotated[str, typer.Argument(help="The workflow's name.", metavar="WORKFLOW")]


@app.callback()
def _group() -> None:
    """Check, load and look at workflows."""


@app.command()
def check(path: FolderArgument, json: JsonOption = False) -> None:
    """Name every mistake in a workflow with file and line, and run its examples.

    Example: `tiebreak workflow check workflows/boston311`
    """
    output = Output(as_json=json)
    checked = check_folder(path)
    workflow, rules = checked.sound()
    told = {
        **_outline(workflow, rules),
        "examples": checked.examples,
        "unfired_rules": list(checked.unfired),
    }
    output.result(told, *_report(checked))


@app.command()
def load(
    path: FolderArgument,
    reason: Annotated[
        str, typer.Option(help="Why; it stands in the version and its knobs.", callback=stated)
    ],
    person: PersonOption = None,
    json: JsonOption = False,
) -> None:
    """Store a workflow as a new version, unless nothing has changed.

    Example: `tiebreak workflow load workflows/boston311 --reason "first version"`
    """
    workflow, rules = check_folder(path).sound()

    async def work(session: Session) -> versions.Loaded:
        return await versions.load(
            session.lane, workflow, rules, author=session.person, reason=reason
        )

    loaded = act(person, work)
    version = loaded.version
    told = {
        **asdict(version),
        "is_new": loaded.is_new,
        "changed_knobs": list(loaded.changed_knobs),
    }
    text = f"{version.workflow} is version {version.ordinal}"
    text += "." if loaded.is_new else ", as before: nothing has changed."
    changed = [f"Knobs set: {', '.join(loaded.changed_knobs)}"] if loaded.changed_knobs else []
    Output(as_json=json).result(told, text, *changed)


@app.command(name="list")
def list_(json: JsonOption = False) -> None:
    """List the loaded workflows.

    Example: `tiebreak workflow list`
    """
    found = _read(versions.newest_versions)
    Output(as_json=json).result(
        {"workflows": [asdict(version) for version in found]}, _table("Workflows", found)
    )


@app.command()
def show(
    workflow: NameArgument,
    version: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="A version's number.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a loaded workflow, its newest or a given version, and the list of all versions.

    Example: `tiebreak workflow show boston311 --version 1`
    """

    async def work(db: Database) -> tuple[versions.Stored, list[versions.Version]]:
        if version is None:
            stored = await versions.latest(db, workflow)
        else:
            stored = await versions.get(db, workflow, version)
        return stored, await versions.versions_of(db, workflow)

    stored, known = _read(work)
    told = {
        "version": asdict(stored.version),
        "config": stored.workflow.model_dump(mode="json"),
        "rules": stored.rules.model_dump(mode="json")["rules"],
        "versions": [asdict(each) for each in known],
    }
    rules = [(r.id, _effect(r.model_dump()), r.message) for r in stored.rules.rules]
    Output(as_json=json).result(
        told,
        f"{stored.workflow.title}: version {stored.version.ordinal}",
        table("", ("part", "count"), list(_outline(stored.workflow, stored.rules).items())[2:]),
        table("Rules", ("rule", "effect", "message"), rules),
        _table("Versions", known),
    )


@app.command()
def knobs(
    workflow: NameArgument,
    knob: Annotated[str | None, typer.Option(help="Only this knob, such as points.high.")] = None,
    json: JsonOption = False,
) -> None:
    """Show every value that each knob has had, newest first, with author and reason.

    Example: `tiebreak workflow knobs boston311 --knob points.high`
    """

    async def work(db: Database) -> list[versions.KnobChange]:
        await versions.latest(db, workflow)
        return await versions.knob_history(db, workflow, knob)

    found = _read(work)
    rows = [
        (each.knob, each.value, each.ordinal, _day(each.created_at), each.author, each.reason)
        for each in found
    ]
    columns = ("knob", "value", "version", "since", "author", "reason")
    told = {"workflow": workflow, "knobs": [asdict(each) for each in found]}
    Output(as_json=json).result(told, table("Knobs", columns, rows))


def _read(work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    return look(lambda session: work(session.db))


def _outline(workflow: Workflow, rules: RuleSet) -> dict[str, Any]:
    history = sum(isinstance(feature, HistoryFeature) for feature in workflow.features)
    texts = sum(_is_text(feature) for feature in workflow.features)
    return {
        "workflow": workflow.name,
        "title": workflow.title,
        "workflow_version": workflow.version,
        "rules_version": rules.version,
        "fields": len(workflow.fields),
        "outcome_fields": len(workflow.outcome_fields),
        "row_features": len(workflow.features) - history - texts,
        "text_features": texts,
        "history_features": history,
        "rules": len(rules.rules),
    }


def _is_text(feature: RowFeature | HistoryFeature) -> bool:
    return isinstance(feature, RowFeature) and feature.kind == "text"


def _report(checked: Checked) -> list[str]:
    workflow, rules = checked.workflow, checked.rules
    lines = [
        f"{workflow.name} is sound: {len(workflow.fields)} fields, {len(workflow.features)} "
        f"features, {len(rules.rules)} rules, {checked.examples} examples as expected."
    ]
    learnt = [feature.name for feature in workflow.features if _is_text(feature)]
    if learnt:
        lines.append(f"Training learns the words of: {', '.join(learnt)}.")
    if checked.unfired:
        lines.append(f"No example fires: {', '.join(checked.unfired)}.")
    return lines


def _table(title: str, found: Sequence[versions.Version]) -> Any:
    rows = [
        (each.workflow, each.ordinal, _day(each.created_at), each.author, each.reason)
        for each in found
    ]
    return table(title, ("workflow", "version", "loaded", "author", "reason"), rows)


def _effect(rule: dict[str, Any]) -> str:
    what = f"{rule['points']:+d} points" if rule["effect"] == "points" else rule["effect"]
    return " ".join(word for word in (rule["hard"] and "hard", what, rule["band"]) if word)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"
