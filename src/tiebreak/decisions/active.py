"""The policy in production for each workflow, followed as release records appear."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import Policy
from tiebreak.core.tickets import Schema, ticket_schema
from tiebreak.errors import (
    Conflict,
    IntegrityFailure,
    InvalidInput,
    NotFound,
    Problem,
    TiebreakError,
)
from tiebreak.registry.canaries import Canary, ForgedCanary, newest
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.registry.records import ForgedRelease, Kind, ReleaseRecord, current
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.kept import kept
from tiebreak.store.keyed import canary_hash, share_end


class NotInProduction(NotFound):
    """The workflow has no policy in production."""

    code = "not_in_production"


@dataclass(frozen=True, slots=True)
class ActiveCanary:
    """What decides a share of a workflow's tickets."""

    record: Canary
    policy: Policy
    schema: Schema
    sampling_key: bytes

    def takes(self, ticket_id: str) -> bool:
        """Whether it decides this ticket; one that it has taken it takes at every larger share."""
        end = share_end(self.record.percent / 100)
        return canary_hash(self.sampling_key, self.record.release_id, ticket_id) < end


@dataclass(frozen=True, slots=True)
class Active:
    """What decides a workflow's tickets now."""

    release: ReleaseRecord
    policy: Policy
    schema: Schema
    problem: Problem | None
    history: HistoryPlan  # what tickets are given, for production and canary
    canary: ActiveCanary | None = None
    canary_problem: Problem | None = None

    def with_canary(self, canary: ActiveCanary) -> Active:
        """The same beside a canary."""
        history = self.history.reading(canary.policy.features_plan.history)
        return replace(self, history=history, canary=canary)

    def without_canary(self) -> Active:
        """Production alone."""
        history = self.policy.features_plan.history
        return replace(self, history=history, canary=None, canary_problem=None)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Production's, and the canary's where there is one."""
        return (self.policy,) if self.canary is None else (self.policy, self.canary.policy)

    def policy_of(self, policy_hash: str) -> Policy | None:
        """The policy of this hash where it is production's or the canary's."""
        return next((policy for policy in self.policies if policy.hash == policy_hash), None)


class ActivePolicies:
    """Follows the release records; what cannot be trusted or loaded leaves the last good policy."""

    def __init__(self, db: Database, library: PolicyLibrary, keyring: Keyring) -> None:
        self._db = db
        self._library = library
        self._keyring = keyring
        self._active: dict[str, Active] = {}
        self._refused: dict[str, TiebreakError] = {}

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
        refused: dict[str, TiebreakError] = {}
        shares = await newest(self._db, self._keyring)
        for workflow, release in (await current(self._db, self._keyring)).items():
            if isinstance(release, ForgedRelease):
                refused[workflow] = release
                continue
            now = self._active.get(workflow)
            if now is None or now.release.seq != release.seq or now.problem is not None:
                try:
                    await self._install(release)
                except (IntegrityFailure, NotFound) as error:
                    refused[workflow] = error
                    continue
            await self._follow(workflow, shares.get(workflow))
        self._refused = refused

    def bundles(self) -> tuple[str, ...]:
        """Digests of the bundles that decide now, canaries' too."""
        found = {policy.parts.bundle_digest for a in self._active.values() for policy in a.policies}
        return tuple(sorted(digest for digest in found if digest is not None))

    async def _install(self, release: ReleaseRecord) -> None:
        loaded = await self._library.get(release.policy_hash)
        before = self._active.get(release.workflow)
        may_wait = release.kind is not Kind.DEMOTE  # what is demoted goes at once
        if may_wait and loaded.is_waiting and before and before.policy.model is not None:
            self._active[release.workflow] = replace(before, problem=_waiting(loaded.problem))
            return
        schema = ticket_schema(loaded.policy.workflow)
        history = loaded.policy.features_plan.history
        self._active[release.workflow] = Active(
            release, loaded.policy, schema, loaded.problem, history
        )

    async def _follow(self, workflow: str, record: Canary | ForgedCanary | None) -> None:
        """Let the canary decide that the newest record names, if it is of this production."""
        active = self._active[workflow]
        if isinstance(record, ForgedCanary):
            problem = Problem(f"workflows.{workflow}.canary", *_told(record))
            self._active[workflow] = replace(active.without_canary(), canary_problem=problem)
            return
        if record is None or not record.decides_beside(active.release.seq):
            if active.canary is not None or active.canary_problem is not None:
                self._active[workflow] = active.without_canary()
            return
        if active.canary is None or active.canary.record != record:
            self._active[workflow] = await self._beside(active.without_canary(), record)

    async def _beside(self, active: Active, record: Canary) -> Active:
        """Production beside this canary, or alone when the canary cannot be let decide."""
        where = f"workflows.{record.workflow}.canary"
        try:
            loaded = await self._library.get(record.policy_hash)
            async with self._db.connection() as conn, conn.transaction():
                await kept(conn, record.workflow, loaded.policy.features_plan.history)
        except (NotFound, Conflict, InvalidInput, IntegrityFailure) as error:
            return replace(active, canary_problem=Problem(where, *_told(error)))
        problem = loaded.problem
        if problem is not None:  # by its rules alone it would be another candidate
            problem = replace(problem, where=where)
            return replace(active, canary_problem=problem)
        schema = ticket_schema(loaded.policy.workflow)
        key = self._keyring.sampling_key
        return active.with_canary(ActiveCanary(record, loaded.policy, schema, key))

    def problems(self) -> list[Problem]:
        """What is wrong with what is in production."""
        all_problems = [(a.problem, a.canary_problem) for a in self._active.values()]
        found = [problem for both in all_problems for problem in both if problem is not None]
        for workflow, error in sorted(self._refused.items()):
            where = f"workflows.{workflow}.release"
            found.append(Problem(where, error.code, error.message, error.hint))
        return found


def _waiting(problem: Problem | None) -> Problem:
    """What is told while the bundle of a new release cannot be fetched."""
    assert problem is not None
    message = f"{problem.message} The policy before it goes on deciding."
    return replace(problem, message=message)


def _told(error: TiebreakError) -> tuple[str, str, str]:
    return error.code, error.message, error.hint or "Production decides meanwhile."
