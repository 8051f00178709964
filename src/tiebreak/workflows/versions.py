"""Stored versions of workflows: immutable, numbered, and each knob with its history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.dialects.postgresql import distinct_on

from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import Knobs, RuleSet, Workflow
from tiebreak.errors import InvalidInput, NotFound
from tiebreak.store import tables
from tiebreak.store.addresses import fitting
from tiebreak.store.database import Database
from tiebreak.store.unit import Unit


class UnknownWorkflow(NotFound):
    """No workflow of this name is loaded."""

    code = "unknown_workflow"


class ReasonMissing(InvalidInput):
    """It needs a reason."""

    code = "reason_missing"


@dataclass(frozen=True, slots=True)
class Version:
    """One stored version of a workflow; ordinals count from 1."""

    workflow: str
    ordinal: int
    workflow_version: str
    rules_version: str
    created_at: datetime
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading did: the newest version, whether it is new, and the knobs that it changed."""

    version: Version
    is_new: bool
    changed_knobs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A version with its content."""

    version: Version
    workflow: Workflow
    rules: RuleSet


@dataclass(frozen=True, slots=True)
class KnobChange:
    """A value that a knob was given, by which version, by whom and why."""

    knob: str
    ordinal: int
    value: float | int | str | None
    created_at: datetime
    author: str
    reason: str


async def load(
    lane: Lane, workflow: Workflow, rules: RuleSet, *, author: str, reason: str
) -> Loaded:
    """Store a workflow as its next version, unless it equals the latest one.

    Going back to older content is a new version too. Raises `ReasonMissing`, and `AlteredVersion`
    when the newest one is not what its address says.
    """
    if not reason.strip():
        raise ReasonMissing(hint="Say why with `--reason`.")
    async with lane.unit() as unit:
        await _lock(unit, workflow.name)
        latest = await unit.conn.fetchrow(_LATEST, workflow.name)
        addresses = (workflow.version, rules.version)
        if latest and (latest["workflow_version"], latest["rules_version"]) == addresses:
            return Loaded(_version(latest), is_new=False)
        return await _store(unit, workflow, rules, author, reason, "workflow.loaded")


async def keep(
    unit: Unit, workflow: Workflow, rules: RuleSet, *, author: str, reason: str
) -> Version | None:
    """Store what a release is proposed of, None where it is stored; it does not become the latest.

    The unit is to note the ordinal with the release (`_LATEST`).
    """
    await _lock(unit, workflow.name)
    addresses = (workflow.name, workflow.version, rules.version)
    if await unit.conn.fetchval(_IS_STORED, *addresses):
        return None
    found = await _store(unit, workflow, rules, author, reason, "workflow.proposed")
    await unit.flush()
    return found.version


async def _lock(unit: Unit, workflow: str) -> None:
    await unit.conn.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('workflow:' || $1, 0))", workflow
    )


async def _store(
    unit: Unit, workflow: Workflow, rules: RuleSet, author: str, reason: str, action: str
) -> Loaded:
    newest = await unit.conn.fetchrow(_NEWEST, workflow.name)
    before = None if newest is None else _knobs(newest)
    row: dict[str, Any] = {
        "workflow": workflow.name,
        "ordinal": 1 if newest is None else newest["ordinal"] + 1,
        "workflow_version": workflow.version,
        "rules_version": rules.version,
        "config": _canonical(workflow),
        "rules": _canonical(rules),
        "created_at": datetime.now(UTC),
        "author": author,
        "reason": reason,
    }
    changed = _add(unit, row, _changes(before, workflow.knobs), action)
    return Loaded(_version(row), is_new=True, changed_knobs=changed)


def _add(unit: Unit, row: Mapping[str, Any], knobs: dict[str, Any], action: str) -> tuple[str, ...]:
    shared = {key: row[key] for key in ("workflow", "ordinal", "created_at", "author", "reason")}
    unit.add(tables.workflow_versions, [row])
    if knobs:
        unit.add(
            tables.knob_history,
            [{**shared, "knob": k, "value": orjson.dumps(v).decode()} for k, v in knobs.items()],
        )
    detail = {
        "ordinal": row["ordinal"],
        "workflow_version": row["workflow_version"],
        "rules_version": row["rules_version"],
        "changed_knobs": list(knobs),
        "reason": row["reason"],
    }
    journal = entry(row["author"], action, row["workflow"], detail)
    unit.add(tables.system_audit, [journal])
    return tuple(knobs)


async def latest(db: Database, workflow: str) -> Stored:
    """The newest version of a workflow that was loaded or came into production.

    Proposing one does not make it so. Raises `UnknownWorkflow`, `AlteredVersion`.
    """
    async with db.connection() as conn:
        row = await conn.fetchrow(_LATEST, workflow)
    ordinal = None if row is None else row["ordinal"]
    return await _one(db, workflow, _ordinal(workflow, ordinal))


async def get(db: Database, workflow: str, ordinal: int) -> Stored:
    """One version of a workflow. Raises `UnknownWorkflow`, `AlteredVersion`."""
    return await _one(db, workflow, _ordinal(workflow, ordinal))


async def addressed(db: Database, workflow: str, workflow_version: str) -> Stored:
    """The newest version with this configuration. Raises `UnknownWorkflow`, `AlteredVersion`."""
    table = tables.workflow_versions
    query = _stored(workflow).where(table.c.workflow_version == workflow_version).limit(1)
    return await _one(db, workflow, query)


async def newest_versions(db: Database) -> list[Version]:
    """The newest version of every workflow, by name."""
    table = tables.workflow_versions
    query = (
        select(*_VERSION_COLUMNS)
        .ext(distinct_on(table.c.workflow))
        .order_by(table.c.workflow, table.c.ordinal.desc())
    )
    return [_version(row) for row in await _rows(db, query)]


async def versions_of(db: Database, workflow: str) -> list[Version]:
    """Every version of a workflow, newest first; none when it is not loaded."""
    table = tables.workflow_versions
    query = (
        select(*_VERSION_COLUMNS)
        .where(table.c.workflow == workflow)
        .order_by(table.c.ordinal.desc())
    )
    return [_version(row) for row in await _rows(db, query)]


async def knob_history(db: Database, workflow: str, knob: str | None = None) -> list[KnobChange]:
    """The values that knobs were given, by knob and newest first."""
    table = tables.knob_history
    query = (
        select(table)
        .where(table.c.workflow == workflow)
        .order_by(table.c.knob, table.c.ordinal.desc())
    )
    if knob is not None:
        query = query.where(table.c.knob == knob)
    return [
        KnobChange(
            knob=row["knob"],
            ordinal=row["ordinal"],
            value=orjson.loads(row["value"]),
            created_at=row["created_at"],
            author=row["author"],
            reason=row["reason"],
        )
        for row in await _rows(db, query)
    ]


def knob_values(knobs: Knobs) -> dict[str, float | int | str | None]:
    """Every knob by its dotted name, such as `points.high`."""
    values: dict[str, float | int | str | None] = {}
    for name, value in knobs.model_dump(mode="json").items():
        if isinstance(value, dict):
            cuts = cast("dict[str, float]", value)
            values |= {f"{name}.{part}": number for part, number in cuts.items()}
        else:
            values[name] = value
    return values


def _knobs(row: Mapping[str, Any]) -> Knobs:
    config = fitting([row["config"]], row["workflow_version"], workflow=row["workflow"])
    return Workflow.model_validate_json(config).knobs


_COLUMNS = "workflow, ordinal, workflow_version, rules_version, config, created_at, author, reason"
_NEWEST = f"""
    SELECT {_COLUMNS} FROM workflow_versions WHERE workflow = $1 ORDER BY ordinal DESC LIMIT 1
"""  # noqa: S608
_LATEST = f"""
    SELECT {_COLUMNS} FROM workflow_versions v
    WHERE workflow = $1 AND (
        ordinal NOT IN (
            SELECT (e.detail::json ->> 'version')::int
            FROM release_events e JOIN releases r USING (release_id)
            WHERE r.workflow = $1 AND e.kind = 'proposed' AND e.detail::json ->> 'version' <> '')
        OR (workflow_version, rules_version) IN (
            SELECT p.workflow_version, p.rules_version
            FROM release_records JOIN policies p USING (policy_hash)
            WHERE p.workflow = $1))
    ORDER BY ordinal DESC LIMIT 1
"""  # noqa: S608
_IS_STORED = """
    SELECT EXISTS (SELECT FROM workflow_versions
        WHERE workflow = $1 AND workflow_version = $2 AND rules_version = $3)
"""

_VERSION_COLUMNS = [tables.workflow_versions.c[name] for name in Version.__dataclass_fields__]


def _changes(before: Knobs | None, after: Knobs) -> dict[str, Any]:
    old = {} if before is None else knob_values(before)
    return {k: v for k, v in knob_values(after).items() if k not in old or old[k] != v}


def _canonical(model: BaseModel) -> str:
    """The text that the model's version is the hash of."""
    return orjson.dumps(model.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS).decode()


def _version(row: Mapping[str, Any]) -> Version:
    return Version(**{name: row[name] for name in Version.__dataclass_fields__})


def _stored(workflow: str) -> Select[Any]:
    table = tables.workflow_versions
    return select(table).where(table.c.workflow == workflow).order_by(table.c.ordinal.desc())


def _ordinal(workflow: str, ordinal: int | None) -> Select[Any]:
    return _stored(workflow).where(tables.workflow_versions.c.ordinal == ordinal)


async def _rows(db: Database, query: Select[Any]) -> list[Mapping[str, Any]]:
    async with db.read() as conn:
        return [dict(row) for row in (await conn.execute(query)).mappings()]


async def _one(db: Database, workflow: str, query: Select[Any]) -> Stored:
    rows = await _rows(db, query)
    if not rows:
        known = [version.workflow for version in await newest_versions(db)]
        if workflow in known:
            ordinals = [str(version.ordinal) for version in await versions_of(db, workflow)]
            raise UnknownWorkflow(
                f"There is no such version of `{workflow}`.",
                hint=f"There are: {', '.join(reversed(ordinals))}.",
                workflow=workflow,
            )
        raise UnknownWorkflow(hint=did_you_mean(workflow, known), workflow=workflow)
    row = rows[0]
    config = fitting([row["config"]], row["workflow_version"], workflow=workflow)
    rules = fitting([row["rules"]], row["rules_version"], workflow=workflow)
    return Stored(
        _version(row),
        Workflow.model_validate_json(config),
        RuleSet.model_validate_json(rules),
    )
