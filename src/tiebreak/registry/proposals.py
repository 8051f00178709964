"""Proposals: the policy that an installation would put into production, and what it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Workflow
from tiebreak.errors import Conflict, InvalidInput, NotFound
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.registry.records import ReleaseRecord, current
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.kept import HistoryNotReady, kept, not_ready
from tiebreak.workflows import versions

SHOWN = ("workflow_version", "rules_version", "bundle_digest", "tiebreak_version")


class NoSuchModel(NotFound):
    """No model of this digest is among the artifacts."""

    code = "no_such_model"


class AmbiguousDigest(InvalidInput):
    """More than one model begins with these digits."""

    code = "ambiguous_digest"


class ModelUnfit(Conflict):
    """The model cannot serve with this version of the workflow."""

    code = "model_unfit"


@dataclass(frozen=True, slots=True)
class Change:
    """One part of the policy that would change; `before` is None when nothing is in production."""

    part: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy that is proved to build, and what is in production now."""

    parts: PolicyParts
    ordinal: int
    in_production: ReleaseRecord | None
    changes: Sequence[Change]


async def propose(
    db: Database,
    library: PolicyLibrary,
    keyring: Keyring,
    workflow: str,
    *,
    ordinal: int | None,
    digest: str | None,
) -> Proposal:
    """The policy of a workflow version (None: the newest) and a bundle (None: rules alone).

    Raises `UnknownWorkflow`, `ModelUnfit` when the bundle does not load or does not fit,
    `HistoryNotReady` when the history log lacks totals that the version reads, `EntityChanged`.
    """
    stored = (
        await versions.latest(db, workflow)
        if ordinal is None
        else await versions.get(db, workflow, ordinal)
    )
    parts = PolicyParts(
        workflow=workflow,
        workflow_version=stored.version.workflow_version,
        rules_version=stored.version.rules_version,
        bundle_digest=digest,
        history_generation=await _generation(db, stored.workflow, ordinal),
    )
    loaded = await library.build(parts)
    if loaded.problem is not None:
        raise ModelUnfit(loaded.problem.message, hint=loaded.problem.hint, workflow=workflow)
    now = (await current(db, keyring)).get(workflow)
    before = now if isinstance(now, ReleaseRecord) else None
    old = None if before is None else await library.parts(before.policy_hash)
    return Proposal(parts, stored.version.ordinal, before, changed(old, parts))


def changed(before: PolicyParts | None, after: PolicyParts) -> tuple[Change, ...]:
    """The parts in which a policy differs from the one before it; all of them without one."""
    return tuple(
        Change(part, None if before is None else getattr(before, part), getattr(after, part))
        for part in SHOWN
        if before is None or getattr(before, part) != getattr(after, part)
    )


def find_digest(artifacts: ArtifactStore, start: str) -> str:
    """The digest of the one stored bundle that begins so.

    Raises `NoSuchModel` and `AmbiguousDigest`.
    """
    found = [digest for digest in artifacts.list_bundles() if digest.startswith(start)]
    if not found:
        raise NoSuchModel(f"No stored model begins with {start!r}.", hint="`tiebreak train` one.")
    if len(found) > 1:
        raise AmbiguousDigest(hint="Give more digits of it.", digests=found)
    return found[0]


async def _generation(db: Database, workflow: Workflow, ordinal: int | None) -> int:
    """The generation of the history log, which must keep all that the version reads."""
    async with db.connection() as conn:
        try:
            return (await kept(conn, workflow.name, HistoryPlan(workflow))).generation
        except HistoryNotReady:
            raise not_ready(workflow.name, ordinal) from None
