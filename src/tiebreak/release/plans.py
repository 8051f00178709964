"""Plans: the `release` section of `workflow.yaml` that a candidate is held to."""

from __future__ import annotations

from dataclasses import dataclass

from tiebreak.core.release_plan import ReleasePlan
from tiebreak.release.releases import Office, Release
from tiebreak.store.database import Database


@dataclass(frozen=True, slots=True)
class InForce:
    """The release section that a candidate is held to, and whose version it stands in."""

    plan: ReleasePlan
    workflow_version: str


async def in_force(office: Office, release: Release) -> InForce:
    """The section of the version in production, its defaults too; without one, the candidate's."""
    policy_hash = await production_of(office.db, release) or release.policy_hash
    recipe = await office.library.recipe(await office.library.parts(policy_hash))
    return InForce(recipe.workflow.release, recipe.parts.workflow_version)


async def production_of(db: Database, release: Release) -> str | None:
    """The hash of the policy that the release was proposed against."""
    async with db.connection() as conn:
        return await conn.fetchval(_PRODUCTION, release.workflow, release.base_seq)


_PRODUCTION = "SELECT policy_hash FROM release_records WHERE workflow = $1 AND seq = $2"
