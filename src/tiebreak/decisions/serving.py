"""Admit, decide, commit: the way of a batch, and of tickets admitted but not yet decided."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from tiebreak.audit.lanes import Lane
from tiebreak.core.decide import decide
from tiebreak.core.stored import Columns, StoredTicket, columns
from tiebreak.core.totals import HistoryOverflow
from tiebreak.decisions.active import Active, ActivePolicies
from tiebreak.decisions.answers import answer
from tiebreak.decisions.batcher import Batch, Pending
from tiebreak.decisions.rows import Row, decision_rows
from tiebreak.errors import NotFound, TiebreakError
from tiebreak.settings import Keyring
from tiebreak.store import commit, reading
from tiebreak.store.admission import Admission, Admitted, admit
from tiebreak.store.database import Database
from tiebreak.store.revisions import Existing, RevisionConflict
from tiebreak.store.starts import Starts
from tiebreak.store.writes import are_few

log = structlog.get_logger()

FIRST = 1  # the ordinal of the decision that answers a submission
POLLS_SECONDS = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


class ErasedTicket(NotFound):
    """The ticket was erased; it cannot be decided."""

    code = "erased_ticket"


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
        await self._settle(active, batch, await self.admit(active, batch))

    async def admit(self, active: Active, batch: Batch) -> Admission:
        """Admit a batch in one short transaction."""
        async with self._admission_lane.unit() as unit:
            return await admit(
                unit,
                active.release.workflow,
                active.policy.features_plan.history,
                active.schema,
                [pending.submission for pending in batch],
                actors=[pending.actor for pending in batch],
                received_at=[pending.received_at for pending in batch],
                keyring=self._keyring,
                starts=self._starts,
            )

    async def _settle(self, active: Active, batch: Batch, admitted: Admission) -> None:
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
            rows = await self.decide(active, admitted.tickets, admitted.columns())
            for index, row in enumerate(rows):
                told = self.told(active, row)
                for pending in fresh[index]:
                    pending.settle(told)
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
        names = active.policy.features_plan.history.context_columns
        rows = self.rows(active, tickets, given or columns(tickets, active.schema, names))
        writes = commit.writes(rows)
        if are_few(writes) and await self._decision_lane.append(writes):
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
        try:
            decisions = decide(*given, active.policy)
        except Exception:
            if active.policy.model is None:
                raise
            # Availability: whatever a model does, the rules still decide, and the row says so.
            log.exception("model_failed", workflow=active.release.workflow)
            decisions = decide(*given, active.policy.rules_alone())
        return decision_rows(
            tickets,
            decisions,
            ordinals=ordinals or [FIRST] * len(tickets),
            decided_at=datetime.now(UTC),
            fingerprint=self.fingerprint,
        )

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
        return self.told(active, (await self.decide(active, [ticket]))[0])

    async def recover(self, workflow: str, *, before: datetime, limit: int = 512) -> int:
        """Decide tickets that were admitted before this time and never decided; how many."""
        active = self._active.get(workflow)
        rows = await reading.undecided(self._db, workflow, before=before, limit=limit)
        tickets = [
            StoredTicket.from_row(row, active.schema) for row in rows if row["content"] is not None
        ]
        if tickets:
            await self.decide(active, tickets)
        if len(rows) < limit:
            async with self._admission_lane.unit() as unit:
                await commit.advance_decided_through(unit, workflow, before)
        return len(tickets)

    def told(self, active: Active, row: Mapping[str, Any]) -> dict[str, Any]:
        """The answer for a row decided by the policy in production or by an earlier one."""
        return answer(row, self.feature_names(active, row))

    @staticmethod
    def feature_names(active: Active, row: Mapping[str, Any]) -> Sequence[str] | None:
        """The features of the decision's model when it is the one in production."""
        model = active.policy.model
        if model is None or row["policy_hash"] != active.policy.hash:
            return None
        return model.feature_names
