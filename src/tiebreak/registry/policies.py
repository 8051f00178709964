"""Policies ready to decide, built from stored versions and signed bundles."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import polars as pl
from sqlalchemy import Column, select

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.blobs import ArtifactsUnavailable
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.decide import decide
from tiebreak.core.model import Model
from tiebreak.core.policy import Policy, PolicyParts
from tiebreak.core.tickets import ticket_schema
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.errors import NotFound, Problem, TiebreakError
from tiebreak.store import tables
from tiebreak.store.addresses import check_policy, fitting, parts_of
from tiebreak.store.database import Database

KEPT = 8  # compiled policies kept in memory


class UnknownPolicy(NotFound):
    """No policy with this hash is stored."""

    code = "unknown_policy"


class UnknownVersion(NotFound):
    """A version that the policy names is not stored."""

    code = "unknown_version"


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy, and what is wrong with its model when it decides by rules alone."""

    policy: Policy
    problem: Problem | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the bundle may be sound, and only the place that holds it is away."""
        return self.problem is not None and self.problem.code == ArtifactsUnavailable.code


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a policy is built from besides its bundle: its parts, and the JSON they are hashes of.

    It can be handed to another process.
    """

    parts: PolicyParts
    config: str  # Workflow
    rules: str  # RuleSet

    @classmethod
    def of(cls, workflow: Workflow, rules: RuleSet, parts: PolicyParts) -> Recipe:
        """The recipe of these, whose versions replace those of `parts`."""
        return cls(
            replace(parts, workflow_version=workflow.version, rules_version=rules.version),
            workflow.model_dump_json(),
            rules.model_dump_json(),
        )

    @property
    def workflow(self) -> Workflow:
        """The workflow's configuration."""
        return Workflow.model_validate_json(self.config)

    @property
    def rule_set(self) -> RuleSet:
        """The rules."""
        return RuleSet.model_validate_json(self.rules)


class PolicyLibrary:
    """Builds policies and keeps the newest few; one a process."""

    def __init__(self, db: Database, artifacts: ArtifactStore, keys: BundleKeys) -> None:
        self._db = db
        self._artifacts = artifacts
        self._keys = keys
        self._kept: OrderedDict[str, Policy] = OrderedDict()

    async def get(self, policy_hash: str) -> LoadedPolicy:
        """The policy with this hash.

        Raises `UnknownPolicy`, `UnknownVersion`, and `AlteredPolicy` and `AlteredVersion` when what
        is stored is not what its address says.
        """
        if policy_hash in self._kept:
            return self._keep(self._kept[policy_hash])
        return await self.build(await self.parts(policy_hash))

    async def build(self, parts: PolicyParts) -> LoadedPolicy:
        """Build a policy from its parts; a bundle that may not be loaded leaves rules alone.

        Raises `UnknownVersion` when a named version is not stored.
        """
        if parts.hash in self._kept:
            return self._keep(self._kept[parts.hash])
        recipe = await self.recipe(parts)
        loaded = await asyncio.to_thread(assemble, recipe, self._artifacts, self._keys)
        return loaded if loaded.problem is not None else self._keep(loaded.policy)

    async def verified(self, parts: PolicyParts) -> LoadedPolicy:
        """The policy built from its bundle's bytes as they are now. Raises `UnknownVersion`."""
        return await self.tried(await self.recipe(parts))

    async def tried(self, recipe: Recipe) -> LoadedPolicy:
        """The policy of versions that need not be stored, built from its bundle's bytes."""
        return await asyncio.to_thread(assemble, recipe, self._artifacts, self._keys)

    async def recipe(self, parts: PolicyParts) -> Recipe:
        """The stored versions that the parts name. Raises `UnknownVersion`, `AlteredVersion`."""
        versions = tables.workflow_versions
        config = await self._text(versions.c.config, versions.c.workflow_version, parts)
        rules = await self._text(versions.c.rules, versions.c.rules_version, parts)
        return Recipe(parts, config, rules)

    async def parts(self, policy_hash: str) -> PolicyParts:
        """What the stored policy is made of. Raises `UnknownPolicy` and `AlteredPolicy`."""
        query = select(tables.policies).where(tables.policies.c.policy_hash == policy_hash)
        async with self._db.read() as conn:
            row = (await conn.execute(query)).mappings().one_or_none()
        if row is None:
            raise UnknownPolicy(policy_hash=policy_hash)
        return parts_of(dict(row))

    def _keep(self, policy: Policy) -> LoadedPolicy:
        self._kept[policy.hash] = policy
        self._kept.move_to_end(policy.hash)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return LoadedPolicy(policy)

    async def _text(self, content: Column[str], version: Column[str], parts: PolicyParts) -> str:
        wanted = getattr(parts, version.name)
        table = tables.workflow_versions
        query = (
            select(content)
            .where(table.c.workflow == parts.workflow, version == wanted)
            .order_by(table.c.ordinal)
        )
        async with self._db.read() as conn:
            texts = (await conn.execute(query)).scalars().all()
        if not texts:
            raise UnknownVersion(
                hint="Store it with `tiebreak workflow load PATH --reason WHY`.",
                workflow=parts.workflow,
                version=wanted,
            )
        return fitting(texts, wanted, workflow=parts.workflow)


def assemble(recipe: Recipe, artifacts: ArtifactStore, keys: BundleKeys) -> LoadedPolicy:
    """Build a policy; a bundle that may not be loaded, or does not fit, leaves rules alone."""
    model, problem = _model(recipe.parts, artifacts, keys)
    return _build(recipe, model, problem)


def _model(
    parts: PolicyParts, artifacts: ArtifactStore, keys: BundleKeys
) -> tuple[Model | None, Problem | None]:
    digest = parts.bundle_digest
    if digest is None:
        return None, None
    try:
        model = Model.load(artifacts.open_bundle(digest, keys), digest)
        model.warm()
    except TiebreakError as error:
        return None, _problem(parts, error)
    return model, None


def _warm(policy: Policy) -> None:
    """Decide nothing once, so that the first ticket does not pay for lazy initialisation."""
    nothing = ticket_schema(policy.workflow).frame([{}])
    as_of = pl.Series("as_of", [datetime.now(UTC)], dtype=pl.Datetime("us", "UTC"))
    ticket_hash = pl.Series("ticket_hash", [0], dtype=pl.Int64)
    decide(nothing.with_columns(as_of, ticket_hash), pl.DataFrame(), policy)


def _problem(parts: PolicyParts, error: TiebreakError) -> Problem:
    return Problem(
        where=f"workflows.{parts.workflow}.model",
        code=error.code,
        message=f"Model bundle {parts.bundle_digest} is not in service: {error.message}",
        hint=error.hint or "Put the signed bundle back; who cannot load it has the rules alone.",
    )


def _build(recipe: Recipe, model: Model | None, problem: Problem | None) -> LoadedPolicy:
    parts, workflow, rule_set = recipe.parts, recipe.workflow, recipe.rule_set

    def build(with_model: Model | None) -> Policy:
        policy = Policy.build(
            workflow,
            rule_set,
            model=with_model,
            bundle_digest=parts.bundle_digest,
            tiebreak_version=parts.tiebreak_version,
            history_generation=parts.history_generation,
        )
        check_policy(policy.parts, parts.hash)
        return policy

    try:
        policy = build(model)
        _warm(policy)
        return LoadedPolicy(policy, problem)
    except TiebreakError as error:
        if model is None:
            raise
        return LoadedPolicy(build(None), _problem(parts, error))
