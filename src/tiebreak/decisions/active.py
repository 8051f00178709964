"""The policy in production for each workflow, followed as release records appear."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tiebreak.core.policy import Policy
from tiebreak.core.tickets import Schema, ticket_schema
from tiebreak.errors import NotFound, Problem
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.registry.records import ForgedRelease, Kind, ReleaseRecord, current
from tiebreak.settings import Keyring
from tiebreak.store.database import Database


class NotInProduction(NotFound):
    """The workflow has no policy in production."""

    code = "not_in_production"


@dataclass(frozen=True, slots=True)
class Active:
    """What decides a workflow's tickets now."""

    release: ReleaseRecord
    policy: Policy
    schema: Schema
    problem: Problem | None


class ActivePolicies:
    """Follows the release records; what cannot be trusted or loaded leaves the last good policy."""

    def __init__(self, db: Database, library: PolicyLibrary, keyring: Keyring) -> None:
        self._db = db
        self._library = library
        self._keyring = keyring
        self._active: dict[str, Active] = {}
        self._forged: dict[str, ForgedRelease] = {}

    def get(self, workflow: str) -> Active:
        """What is in production for this workflow. Raises `NotInProduction`."""
        active = self._active.get(workflow)
        if active is None:
            raise NotInProduction(
                f"The workflow {workflow!r} has no policy in production.",
                hint=f"Install one: `tiebreak release install {workflow} --approved-by PERSON "
                "--reason WHY`.",
                workflow=workflow,
            )
        return active

    def workflows(self) -> tuple[str, ...]:
        """The workflows that have a policy in production, sorted."""
        return tuple(sorted(self._active))

    async def refresh(self) -> None:
        """Read the newest records; build what changed, and retry models that could not load."""
        forged: dict[str, ForgedRelease] = {}
        for workflow, release in (await current(self._db, self._keyring)).items():
            if isinstance(release, ForgedRelease):
                forged[workflow] = release
                continue
            now = self._active.get(workflow)
            if now is None or now.release.seq != release.seq or now.problem is not None:
                await self._install(release)
        self._forged = forged

    def bundles(self) -> tuple[str, ...]:
        """Digests of the bundles that decide now."""
        found = {active.policy.parts.bundle_digest for active in self._active.values()}
        return tuple(sorted(digest for digest in found if digest is not None))

    async def _install(self, release: ReleaseRecord) -> None:
        loaded = await self._library.get(release.policy_hash)
        before = self._active.get(release.workflow)
        may_wait = release.kind is not Kind.DEMOTE  # what is demoted goes at once
        if may_wait and loaded.is_waiting and before and before.policy.model is not None:
            self._active[release.workflow] = replace(before, problem=_waiting(loaded.problem))
            return
        schema = ticket_schema(loaded.policy.workflow)
        self._active[release.workflow] = Active(release, loaded.policy, schema, loaded.problem)

    def problems(self) -> list[Problem]:
        """What is wrong with what is in production."""
        found = [active.problem for active in self._active.values() if active.problem is not None]
        for workflow, error in sorted(self._forged.items()):
            where = f"workflows.{workflow}.release"
            found.append(Problem(where, error.code, error.message, error.hint))
        return found


def _waiting(problem: Problem | None) -> Problem:
    """What is told while the bundle of a new release cannot be fetched."""
    assert problem is not None
    message = f"{problem.message} The policy before it goes on deciding."
    return replace(problem, message=message)
