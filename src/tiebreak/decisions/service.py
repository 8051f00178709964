"""The decision service: everything one serving process needs to answer tickets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.policy import Policy
from tiebreak.core.stored import StoredTicket
from tiebreak.core.tickets import Schema, Submission
from tiebreak.decisions.active import Active, ActivePolicies
from tiebreak.decisions.again import Again, Request
from tiebreak.decisions.batcher import Batcher, Pending
from tiebreak.decisions.listening import Listener
from tiebreak.decisions.recovery import Recovery
from tiebreak.decisions.serving import Serving
from tiebreak.decisions.upkeep import Upkeep
from tiebreak.errors import InvalidInput, Problem, TiebreakError, Unavailable
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.settings import Keyring, Settings
from tiebreak.store import outdated, reading, schema
from tiebreak.store.database import Database
from tiebreak.store.outdated import Window

log = structlog.get_logger()

BULK = 2_000  # imported tickets decided and sealed at once
REFRESH_SECONDS = 0.5  # at the latest, should nothing be heard
MAX_AHEAD = timedelta(days=1)  # of our clock, by a sender's clock or a day read in another zone


class KeepingFailed(Unavailable):
    """What is in production could not be followed; it is tried again."""

    code = "keeping_failed"


class OpenedInFuture(InvalidInput):
    """The ticket says that it was opened later than now."""

    code = "opened_in_future"


class Starting(Unavailable):
    """The service has not yet read what is in production."""

    code = "starting"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one process takes on at once."""

    queue_size: int = 1024
    batch_max: int = 64


class DecisionService:
    """Decides tickets durably; one a process. `start` it, `decide`, then `drain`."""

    def __init__(self, db: Database, settings: Settings, keyring: Keyring, limits: Limits) -> None:
        self.db = db
        keys = BundleKeys.of(keyring)
        artifacts = ArtifactStore.of(settings)
        self.library = PolicyLibrary(db, artifacts, keys)
        self.active = ActivePolicies(db, self.library, keyring)
        self._listener = Listener(db)
        self._upkeep = Upkeep(artifacts, self.active)
        self._keyring = keyring
        self._limits = limits
        self._batchers: dict[str, Batcher] = {}
        self._serving: Serving | None = None
        self._again: Again | None = None
        self._trouble: Problem | None = None
        self._recovery: Recovery | None = None
        self._keepers: tuple[asyncio.Task[None], ...] = ()

    @classmethod
    async def start(
        cls, settings: Settings, keyring: Keyring, limits: Limits | None = None
    ) -> DecisionService:
        """Start serving. A database that is away is no error: `problems` says so until it is back.

        Tickets that were admitted and not decided before a crash are decided now.
        """
        api = settings.api
        limits = limits or Limits(api.queue_size, api.batch_max)
        service = cls(await Database.of(settings), settings, keyring, limits)
        await service._keep()
        service._listener.start()
        service._keepers = (
            asyncio.create_task(service._keep_on()),
            asyncio.create_task(service._upkeep.keep_on()),
        )
        return service

    async def decide(self, workflow: str, submission: Submission, actor: str) -> dict[str, Any]:
        """Decide one ticket; returns once the decision is durable.

        Raises what `submit` raises, `RevisionConflict` and `DatabaseUnavailable`.
        """
        return await self.submit(workflow, submission, actor)

    def submit(
        self, workflow: str, submission: Submission, actor: str, away_seconds: float = 0.0
    ) -> asyncio.Future[dict[str, Any]]:
        """Let one ticket be decided; the answer comes once the decision is durable.

        `away_seconds` says how long ago the caller got its last answer: who comes back at once, as
        a batch's lines do, is waited for. Whoever no longer waits for the answer may fail or
        cancel it; the ticket may be decided all the same.

        Raises `Overloaded`, `Draining`, `NotInProduction`, `OpenedInFuture`.
        """
        active = self._get(workflow)
        pending = Pending(submission, actor, away_seconds)
        _check_opened(active.policy.workflow.time, submission, pending.received_at)
        self._batcher(workflow).submit(pending)
        return pending.answer

    def check(self, workflow: str, submission: Submission) -> None:
        """Raises `OpenedInFuture`, `NotInProduction`; what is stored is not looked at."""
        time = self._get(workflow).policy.workflow.time
        _check_opened(time, submission, datetime.now(UTC))

    async def decide_imported(
        self,
        workflow: str,
        *,
        since: datetime,
        until: datetime,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Decide imported tickets that have no decision, at their stored `as_of` and context.

        Returns how many; `progress` is given the count so far. Running it again goes on where it
        was interrupted. Raises `NotInProduction`, `DatabaseUnavailable`.
        """
        active, count = self._get(workflow), 0
        serving = self._serving
        assert serving is not None
        batches = reading.imported(self.db, workflow, since=since, until=until, batch=BULK)
        async for rows in batches:
            tickets = [StoredTicket.from_row(row, active.schema) for row in rows]
            await serving.decide(active, tickets)
            count += len(tickets)
            progress(count)
        return count

    async def count_imported(self, workflow: str, *, since: datetime, until: datetime) -> int:
        """How many tickets `decide_imported` would decide. Raises as it does."""
        self._get(workflow)
        return await reading.count_imported(self.db, workflow, since=since, until=until)

    async def decide_again(
        self, workflow: str, ticket_id: str, revision: int, request: Request
    ) -> dict[str, Any]:
        """Decide a stored ticket revision by the policy in production; durable when it returns.

        Raises `UnknownRevision`, `ErasedTicket`, `NotInProduction`, `DatabaseUnavailable`.
        """
        active = self._get(workflow)
        assert self._again is not None
        assert self._serving is not None
        row = await self._again.one(active, ticket_id, revision, request)
        return self._serving.told(active, row)

    async def decide_many_again(
        self,
        workflow: str,
        window: Window,
        request: Request,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Decide again the newest revision of all decided tickets of the window; how many."""
        active = self._get(workflow)
        assert self._again is not None
        return await self._again.many(active, window, request, progress)

    async def count_outdated(self, workflow: str, window: Window) -> int:
        """How many tickets `decide_many_again` would decide."""
        active = self._get(workflow)
        assert self._again is not None
        return await outdated.count(self.db, workflow, window, self._again.standard(active))

    def schema(self, workflow: str) -> Schema:
        """The schema of the workflow's policy in production. Raises `NotInProduction`."""
        return self._get(workflow).schema

    def policy(self, workflow: str) -> Policy:
        """The workflow's policy in production. Raises `NotInProduction`."""
        return self._get(workflow).policy

    def workflows(self) -> tuple[str, ...]:
        """The workflows with a policy in production."""
        return self.active.workflows()

    @property
    def waiting(self) -> int:
        """How many submissions wait to be admitted."""
        return sum(batcher.waiting for batcher in self._batchers.values())

    @property
    def counts(self) -> tuple[int, int]:
        """How many tickets were taken, and in how many batches, since the start."""
        counts = [batcher.counts for batcher in self._batchers.values()]
        return sum(tickets for tickets, _ in counts), sum(batches for _, batches in counts)

    def problems(self) -> list[Problem]:
        """All that keeps the service from deciding, or from deciding with its model."""
        found = [] if self._trouble is None else [self._trouble]
        if self._serving is not None and not self.active.workflows():
            hint = "Load a workflow, train, and install a policy; or run `tiebreak demo`."
            found.append(Problem("workflows", "none_in_production", "Nothing to decide by.", hint))
        found += self.active.problems()
        codes = {problem.code for problem in found}
        return found + [each for each in self._upkeep.problems if each.code not in codes]

    @property
    def is_ready(self) -> bool:
        """Whether tickets can be decided now, if only by rules."""
        return self._trouble is None and bool(self.active.workflows())

    async def drain(self) -> None:
        """Refuse new tickets, answer the waiting ones, then close."""
        for keeper in self._keepers:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        await self._listener.stop()
        await asyncio.gather(*(batcher.drain() for batcher in self._batchers.values()))
        await self.db.close()

    def _get(self, workflow: str) -> Active:
        if self._serving is None:
            reason = "" if self._trouble is None else self._trouble.message
            raise Starting(reason or None, hint="Send it again; see /readyz.")
        return self.active.get(workflow)

    def _batcher(self, workflow: str) -> Batcher:
        batcher = self._batchers.get(workflow)
        if batcher is None:
            serving = self._serving
            assert serving is not None
            batcher = self._batchers[workflow] = Batcher(
                lambda batch: serving.answer(workflow, batch),
                queue_size=self._limits.queue_size,
                batch_max=self._limits.batch_max,
            )
        return batcher

    async def _keep_on(self) -> None:
        while True:
            await self._listener.wait(REFRESH_SECONDS)
            await self._keep()

    async def _keep(self) -> None:
        """Follow the release records, and finish what a crash left undecided."""
        try:
            if self._serving is None:
                async with self.db.connection() as connection:
                    await schema.check(connection)
            await self.active.refresh()
            if self._serving is None:
                self._serving = await self._open()
            assert self._recovery is not None
            await self._recovery.look(self.active.workflows())
        except Exception as error:  # whatever it is, the next look may go well
            known = error if isinstance(error, TiebreakError) else KeepingFailed()
            if self._trouble is None or self._trouble.code != known.code:
                cause = None if known is error else error
                log.warning(
                    "service_trouble", code=known.code, reason=known.message, exc_info=cause
                )
            self._trouble = Problem("service", known.code, known.message, known.hint)
        else:
            self._trouble = None

    async def _open(self) -> Serving:
        lanes = (
            await Lane.open(self.db, "admission", self._keyring),
            await Lane.open(self.db, "decision", self._keyring),
        )
        serving = Serving(self.db, self._keyring, self.active, lanes, engine_fingerprint().hash)
        self._again = Again(self.db, await Lane.open(self.db, "again", self._keyring), serving)
        self._recovery = Recovery(self.db, serving)
        return serving


def _check_opened(time: str, submission: Submission, now: datetime) -> None:
    """Raises `OpenedInFuture`; history, drift and training would believe such a time."""
    opened_at = submission.values.get(time)
    if opened_at is not None and opened_at > now + MAX_AHEAD:
        raise OpenedInFuture(
            f"`{time}` lies more than a day ahead of now.",
            hint="Correct the time, or the clock that it came from.",
            field=time,
        )
