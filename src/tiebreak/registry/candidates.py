"""Candidates: the policy to be tried, as stored or with parts of it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from sqlalchemy import select

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.core.policy import PolicyParts
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import Knobs, Workflow
from tiebreak.errors import Conflict, InvalidInput, Problem
from tiebreak.registry.policies import PolicyLibrary, Recipe, UnknownPolicy
from tiebreak.registry.proposals import find_digest
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.kept import serving_generation
from tiebreak.workflows import versions
from tiebreak.workflows.check import check_folder
from tiebreak.workflows.structure import knob_mistakes

RULES_ALONE = "none"


class NothingChanged(InvalidInput):
    """There is nothing to try: no policy is named and no part is changed."""

    code = "nothing_changed"


class AmbiguousPolicy(InvalidInput):
    """More than one policy begins with these digits, or a policy and changes are both given."""

    code = "ambiguous_policy"


class OtherWorkflow(InvalidInput):
    """The policy or folder is that of another workflow."""

    code = "other_workflow"


class KnobMistaken(InvalidInput):
    """A knob cannot be set so."""

    code = "knob_mistaken"


class FieldsChanged(Conflict):
    """Fields have other types than those that the stored tickets were taken with."""

    code = "fields_changed"


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be tried: a stored policy, or the policy in production with parts changed."""

    policy: str | None = None  # its hash, or the first digits of it
    folder: Path | None = None  # fields, features, rules and knobs
    bundle: str | None = None  # a digest or its first digits; RULES_ALONE
    knobs: Mapping[str, str] | None = None  # by dotted name, as written


async def candidate(
    db: Database,
    library: PolicyLibrary,
    artifacts: ArtifactStore,
    workflow: str,
    production: PolicyParts | None,
    changes: Changes,
) -> Recipe:
    """The policy to try.

    Without a policy in production the newest version of the workflow, by rules alone, is what
    is changed. A changed policy names the generation of history that serves now. Raises errors of
    this module, `MistakenWorkflow`, `UnknownPolicy`, `NoSuchModel`.
    """
    parts = [changes.folder, changes.bundle, changes.knobs]
    if changes.policy is None and not any(parts):
        raise NothingChanged(
            hint="Name a stored policy, or change the workflow's files, the model or a knob."
        )
    base = await _base(db, library, workflow, production)
    if changes.policy is not None:
        if any(parts):
            raise AmbiguousPolicy(hint="Give --policy alone, or only changes.")
        found = await library.recipe(await library.parts(await find_policy(db, changes.policy)))
    else:
        found = _changed(base, artifacts, changes)
        async with db.connection() as conn:
            generation = await serving_generation(conn, workflow)
        if generation is not None:
            found = replace(found, parts=replace(found.parts, history_generation=generation))
    if found.workflow.name != workflow:
        raise OtherWorkflow(workflow=workflow, found=found.workflow.name)
    _check_fields(base.workflow, found.workflow)
    return found


async def _base(
    db: Database, library: PolicyLibrary, workflow: str, production: PolicyParts | None
) -> Recipe:
    newest = await versions.latest(db, workflow)
    if production is not None:
        return await library.recipe(production)
    return Recipe.of(newest.workflow, newest.rules, PolicyParts(workflow, "", ""))


def _changed(base: Recipe, artifacts: ArtifactStore, changes: Changes) -> Recipe:
    workflow, rules, parts = base.workflow, base.rule_set, base.parts
    if changes.folder is not None:
        workflow, rules = check_folder(changes.folder).sound()
    if changes.knobs:
        knobs = set_knobs(workflow.knobs, changes.knobs)
        workflow = workflow.model_copy(update={"knobs": knobs})
    if changes.bundle is not None:
        is_none = changes.bundle == RULES_ALONE
        digest = None if is_none else find_digest(artifacts, changes.bundle)
        parts = replace(parts, bundle_digest=digest)
    return Recipe.of(workflow, rules, parts)


def set_knobs(knobs: Knobs, given: Mapping[str, str]) -> Knobs:
    """The knobs with some set, by dotted name, to values as JSON or bare words.

    Raises `KnobMistaken` that names every mistake.
    """
    known = versions.knob_values(knobs)
    unknown = [
        Problem(name, "unknown_knob", "there is no such knob", did_you_mean(name, known))
        for name in given
        if name not in known
    ]
    if unknown:
        raise KnobMistaken("Some knobs do not exist.", problems=tuple(unknown))
    data: dict[str, Any] = knobs.model_dump(mode="json")
    for name, text in given.items():
        owner, _, part = name.partition(".")
        if part:
            data[owner][part] = _value(text)
        else:
            data[owner] = _value(text)
    try:
        changed = Knobs.model_validate(data)
    except ValidationError as error:
        wrong = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
    else:
        wrong = list(knob_mistakes(changed))
        if not wrong:
            return changed
    problems = tuple(Problem(name, "knob", message) for name, message in wrong)
    raise KnobMistaken(
        "Some knobs cannot be set so.",
        hint="`tiebreak workflow knobs` shows the values they have had.",
        problems=problems,
    )


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


async def find_policy(db: Database, start: str) -> str:
    """The hash of the one stored policy that begins so.

    Raises `UnknownPolicy` and `AmbiguousPolicy`.
    """
    column = tables.policies.c.policy_hash
    async with db.read() as conn:
        query = select(column).where(column.startswith(start, autoescape=True)).limit(2)
        found = list((await conn.execute(query)).scalars())
    if not found:
        raise UnknownPolicy(
            f"No stored policy begins with {start!r}.",
            hint="Every decision names its policy; `tiebreak release status` shows the current.",
            policy_hash=start,
        )
    if len(found) > 1:
        raise AmbiguousPolicy(hint="Give more digits of it.", policies=found)
    return found[0]


def _check_fields(stored: Workflow, tried: Workflow) -> None:
    types = {field.name: field.type for field in stored.fields}
    differing = [f.name for f in tried.fields if types.get(f.name, f.type) is not f.type]
    if differing:
        raise FieldsChanged(
            f"Stored tickets have other types of: {', '.join(differing)}.",
            hint="Give a changed field a new name.",
            fields=differing,
        )
