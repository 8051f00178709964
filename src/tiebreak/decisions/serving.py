"""Admit, decide, commit: the way of a batch, and of tickets admitted but not yet decided."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import polars as pl
import structlog

from tiebreak.audit.lanes import Lane, SealedUnit
from tiebreak.core.decide import Decisions, decide, deciding
from tiebreak.core.steps import Steps, finished
from tiebreak.core.stored import Columns, StoredTicket, columns
from tiebreak.core.totals import HistoryOverflow
from tiebreak.decisions.active import Active, ActiveCanary, ActivePolicies
from tiebreak.decisions.answers import answer
from tiebreak.decisions.batcher import Batch, Pending
from tiebreak.decisions.rows import Row, decision_rows, standing_in
from tiebreak.decisions.soundness import flaw
from tiebreak.errors import IntegrityFailure, NotFound, TiebreakError
from tiebreak.settings import Keyring
from tiebreak.store import commit, reading
from tiebreak.store.admission import BEGIN, Admission, Admitted, admit, prepare
from tiebreak.store.database import Database
from tiebreak.store.kept import HistoryNotReady
from tiebreak.store.meanwhile import Meanwhile
from tiebreak.store.revisions import Existing, RevisionConflict
from tiebreak.store.starts import Starts
from tiebreak.store.writes import SealAt, are_few

log = structlog.get_logger()

FINISHED_AT_ONCE = 512  # of the tickets that somebody left undecided
FIRST = 1  # the ordinal of the decision that answers a submission
POLLS_SECONDS = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


class ErasedTicket(NotFound):
    """The ticket was erased; it cannot be decided."""

    code = "erased_ticket"


class CanaryUnsound(IntegrityFailure):
    """What the canary says are no decisions."""

    code = "canary_unsound"


class _AdmittedBatch(NamedTuple):
    """A batch that is admitted, its decisions, and the seal of its admission."""

    admission: Admission
    decided: Meanwhile[list[Row]]
    seal: SealAt | None


class Serving:
    """One worker's hands on core and store: a lane for admissions and one for decisions.

    Deciding runs on the event loop itself: a batch takes a few milliseconds, and a thread beside
    the loop only contends with it for the interpreter, at a third of the throughput.
    """

    def __init__(
        self,
        db: Database,
        keyring: Keyring,
        active: ActivePolicies,
        lanes: tuple[Lane, Lane],
        fingerprint: str,
    ) -> None:
        self._db = db
        self._keyring = keyring
        self._active = active
        self._admission_lane, self._decision_lane = lanes
        self._starts = Starts()
        self.fingerprint = fingerprint

    async def answer(self, workflow: str, batch: Batch) -> None:
        """Admit a batch, decide it, and settle its submissions."""
        active = self._active.get(workflow)
        try:
            admitted = await self._admit(active, batch)
        except HistoryNotReady:
            if active.canary is None:
                raise
            active = active.without_canary()  # what it reads is not kept any more
            admitted = await self._admit(active, batch)
        try:
            await self._settle(active, batch, *admitted)
        except BaseException:
            self._starts = Starts()  # a crash may have taken back what is remembered
            raise

    async def _admit(self, active: Active, batch: Batch) -> _AdmittedBatch:
        """Admit a batch, and decide it while that is written and commits."""
        async with self.admitting(active, batch) as (unit, admitted):
            unit.meanwhile = decided = Meanwhile(self._deciding_batch(active, admitted))
        return _AdmittedBatch(admitted, decided, unit.seal)

    @asynccontextmanager
    async def admitting(
        self, active: Active, batch: Batch
    ) -> AsyncGenerator[tuple[SealedUnit, Admission]]:
        """Admit a batch in one short transaction, which commits at the end of the block.

        Nobody waits until it is on the disk: the decisions will be, and with them all before them.
        """
        submissions = [pending.submission for pending in batch]
        prepared = Meanwhile.once(
            partial(prepare, active.history, active.schema, submissions, self._keyring)
        )
        async with self._admission_lane.unit(begin=BEGIN, waits=False, meanwhile=prepared) as unit:
            yield (
                unit,
                await admit(
                    unit,
                    prepared.result(),
                    actors=[pending.actor for pending in batch],
                    received_at=[pending.received_at for pending in batch],
                    starts=self._starts,
                ),
            )

    def _deciding_batch(self, active: Active, admitted: Admission) -> Steps[list[Row]]:
        if not admitted.tickets:
            return []
        return (yield from self._deciding_all(active, admitted.tickets, admitted.columns()))

    async def _settle(
        self,
        active: Active,
        batch: Batch,
        admitted: Admission,
        decided: Meanwhile[list[Row]],
        seal: SealAt | None,
    ) -> None:
        fresh: dict[int, list[Pending]] = {}
        earlier: list[tuple[Pending, Existing]] = []
        for pending, result in zip(batch, admitted.results, strict=True):
            match result:
                case Admitted():
                    fresh.setdefault(result.index, []).append(pending)
                case Existing():
                    earlier.append((pending, result))
                case RevisionConflict() | HistoryOverflow():
                    pending.fail(result)
        if admitted.tickets:
            rows = decided.result()
            telling = Meanwhile.once(lambda: [self.told(active, row) for row in rows])
            stored = await self._commit(rows, telling, seal)
            if seal is not None:
                self._admission_lane.lasted(seal)
            is_ours = stored is rows
            told = telling.result() if is_ours else [self.told(active, row) for row in stored]
            for index, each in enumerate(told):
                for pending in fresh[index]:
                    pending.settle(each)
        await asyncio.gather(*(self._tell_again(active, *each) for each in earlier))

    async def _tell_again(self, active: Active, pending: Pending, existing: Existing) -> None:
        """Give an earlier answer once more; what goes wrong with it concerns its caller alone."""
        try:
            pending.settle(await self._existing(active, pending, existing.revision))
        except TiebreakError as error:
            pending.fail(error)

    async def decide(
        self, active: Active, tickets: Sequence[StoredTicket], given: Columns | None = None
    ) -> list[Row]:
        """Decide stored tickets and commit; the rows as stored, a rival's where it was first.

        `given` are the tickets' columns where they are at hand.
        """
        given = given or columns(tickets, active.schema, active.history.context_columns)
        return await self._commit(finished(self._deciding_all(active, tickets, given)))

    def _deciding_all(
        self, active: Active, tickets: Sequence[StoredTicket], given: Columns
    ) -> Steps[list[Row]]:
        """What production says, or it and a canary; no model comes before the second step.

        A model may hang or die, and others find the batch once COMMIT is on its way.
        """
        if active.canary is None:
            return (yield from self._deciding(active, tickets, given))
        yield
        return self._rows_of_both(active, active.canary, tickets, given)

    async def finish(self, active: Active, tickets: Sequence[StoredTicket]) -> list[Row]:
        """Decide stored tickets that somebody left undecided, and commit; by production alone.

        A canary's may be what its process hung or died of, and would again: it counts as failed.
        """
        given = columns(tickets, active.schema, active.history.context_columns)
        rows, canary = self.rows(active, tickets, given), active.canary
        if canary is not None:
            rows = [standing_in(row) if canary.takes(row["ticket_id"]) else row for row in rows]
        return await self._commit(rows)

    async def _commit(
        self,
        rows: list[Row],
        meanwhile: Meanwhile[object] | None = None,
        after: SealAt | None = None,
    ) -> list[Row]:
        """Store decisions on tickets that are there; `after` is the seal of their admission."""
        writes = commit.writes(rows)
        if (
            after is not None
            and are_few(writes)
            and await self._decision_lane.append(writes, meanwhile, after)
        ):
            return rows
        async with self._decision_lane.unit() as unit:
            return await commit.commit(unit, rows)

    def rows(
        self,
        active: Active,
        tickets: Sequence[StoredTicket],
        given: Columns,
        ordinals: Sequence[int] | None = None,
    ) -> list[Row]:
        """What the policy in production says of stored tickets; nothing is stored."""
        return finished(self._deciding(active, tickets, given, ordinals))

    def _deciding(
        self,
        active: Active,
        tickets: Sequence[StoredTicket],
        given: Columns,
        ordinals: Sequence[int] | None = None,
    ) -> Steps[list[Row]]:
        """`rows` in the steps of `deciding`."""
        try:
            decisions = yield from deciding(*given, active.policy)
        except Exception:
            if active.policy.model is None:
                raise
            # Availability: whatever a model does, the rules still decide, and the row says so.
            log.exception("model_failed", workflow=active.release.workflow)
            decisions = decide(*given, active.policy.rules_alone())
        return self._made(tickets, decisions, ordinals or [FIRST] * len(tickets))

    def _made(
        self, tickets: Sequence[StoredTicket], decisions: Decisions, ordinals: Sequence[int]
    ) -> list[Row]:
        return decision_rows(
            tickets,
            decisions,
            ordinals=ordinals,
            decided_at=datetime.now(UTC),
            fingerprint=self.fingerprint,
        )

    def _rows_of_both(
        self,
        active: Active,
        canary: ActiveCanary,
        tickets: Sequence[StoredTicket],
        given: Columns,
    ) -> list[Row]:
        """What production and canary say, each of its tickets, in the order of the tickets.

        Production goes first: a slow canary does not make its decisions look late.
        """
        taken = [i for i, ticket in enumerate(tickets) if canary.takes(ticket.ticket_id)]
        if not taken:
            return self.rows(active, tickets, given)
        left = sorted(set(range(len(tickets))).difference(taken))
        rows: dict[int, Row] = {}
        if left:
            mine = self.rows(active, [tickets[i] for i in left], _part(given, left))
            rows |= zip(left, mine, strict=True)
        theirs = self._rows_of_canary(active, canary, [tickets[i] for i in taken], given, taken)
        rows |= zip(taken, theirs, strict=True)
        return [rows[i] for i in range(len(tickets))]

    def _rows_of_canary(
        self,
        active: Active,
        canary: ActiveCanary,
        tickets: Sequence[StoredTicket],
        given: Columns,
        taken: Sequence[int],
    ) -> list[Row]:
        """What the canary says; where it cannot, what production says, and that it stood in."""
        part = _part(given, taken)
        try:
            theirs = part
            if canary.schema.fields != active.schema.fields:
                names = canary.policy.features_plan.history.context_columns
                theirs = columns(tickets, canary.schema, names)
            decisions = decide(*theirs, canary.policy)
            if (found := flaw(decisions, len(tickets))) is not None:
                raise CanaryUnsound(found)
            return self._made(tickets, decisions, [FIRST] * len(tickets))
        except Exception as error:  # noqa: BLE001 - whatever a canary does, production answers
            log.warning(
                "canary_failed",
                workflow=active.release.workflow,
                release=str(canary.record.release_id),
                error=type(error).__name__,
            )
        return [standing_in(row) for row in self.rows(active, tickets, part)]

    async def _existing(self, active: Active, pending: Pending, revision: int) -> dict[str, Any]:
        """The answer already given; an admission that nobody finishes is finished here."""
        key = (active.release.workflow, pending.submission.ticket_id, revision)
        for seconds in POLLS_SECONDS:
            await asyncio.sleep(seconds)
            row = await reading.first_decision(self._db, *key)
            if row is not None:
                return self.told(active, row)
        stored = await reading.ticket(self._db, *key)
        if stored is None or stored["content"] is None:
            raise ErasedTicket(ticket_id=key[1], revision=revision)
        ticket = StoredTicket.from_row(stored, active.schema)
        return self.told(active, (await self.finish(active, [ticket]))[0])

    async def recover(
        self, workflow: str, *, through: datetime, limit: int = FINISHED_AT_ONCE
    ) -> int:
        """Decide tickets that were admitted up to this `as_of` and never decided; how many."""
        active = self._active.get(workflow)
        newest = await reading.newest_as_of(self._db, workflow)
        if newest is None:
            return 0
        decided_through = min(through, newest)
        rows = await reading.undecided(self._db, workflow, through=decided_through, limit=limit)
        tickets = [
            StoredTicket.from_row(row, active.schema) for row in rows if row["content"] is not None
        ]
        if tickets:
            await self.finish(active, tickets)
        if len(tickets) == len(rows) < limit:
            async with self._admission_lane.unit(waits=False) as unit:  # it bears to be lost
                await commit.advance_decided_through(unit, workflow, decided_through)
        return len(tickets)

    def told(self, active: Active, row: Mapping[str, Any]) -> dict[str, Any]:
        """The answer for a row decided by a policy of now or by an earlier one."""
        return answer(row, self.feature_names(active, row))

    @staticmethod
    def feature_names(active: Active, row: Mapping[str, Any]) -> Sequence[str] | None:
        """The features of the decision's model when it is production's or the canary's."""
        policy = active.policy_of(row["policy_hash"])
        if policy is None or policy.model is None:
            return None
        return policy.model.feature_names


def _part(given: Columns, rows: Sequence[int]) -> Columns:
    fields, context = given
    return fields[rows], context[rows] if context.width else pl.DataFrame(height=len(rows))
