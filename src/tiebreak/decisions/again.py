"""Deciding again: what is stored of tickets, by the policy that is in production now.

It happens on request alone. A decision is appended with the next ordinal; none is ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from tiebreak.audit.lanes import Lane
from tiebreak.core.stored import Columns, StoredTicket, columns
from tiebreak.decisions.active import Active
from tiebreak.decisions.rows import Row
from tiebreak.decisions.serving import ErasedTicket, Serving
from tiebreak.errors import Conflict, NotFound
from tiebreak.store import commit, erasure, outdated, reading
from tiebreak.store.database import Database
from tiebreak.store.outdated import Standard, Window

BATCH = 2_000  # tickets decided and sealed at once
MAX_REVISION = 2**31 - 1  # an integer of Postgres


class UnknownRevision(NotFound):
    """There is no such revision of a ticket in this workflow."""

    code = "unknown_revision"


class FieldsChanged(Conflict):
    """A field of the stored ticket is of another type than the policy in production takes."""

    code = "fields_changed"


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants tickets decided again, and why; it goes into `system_audit`."""

    actor: str
    reason: str


class Again:
    """Decides stored tickets again, in a lane of its own."""

    def __init__(self, db: Database, lane: Lane, serving: Serving) -> None:
        self._db = db
        self._lane = lane
        self._serving = serving

    async def one(self, active: Active, ticket_id: str, revision: int, request: Request) -> Row:
        """The decision of this revision by the policy in production, made now unless it stands.

        It stands when the newest decision is by this policy and engine; a decision that was made
        while the model failed does not stand once there is a model. A revision that was never
        decided is decided for the first time. Raises `UnknownRevision` and `ErasedTicket`.
        """
        workflow = active.release.workflow
        while True:
            ticket = await self._ticket(active, ticket_id, revision)
            newest = await reading.newest_decision(self._db, workflow, ticket_id, revision)
            if newest is None:
                given = _columns(active, [ticket])
                (newest,) = await self._serving.decide(active, [ticket], given)
            if self.standard(active).holds(newest):
                return newest
            (row,) = self._rows(active, [ticket], [newest])
            if _is_no_news(row, newest):
                return newest
            detail = {"revision": revision, "ordinal": row["ordinal"], "policy_hash": row[_HASH]}
            subject = f"{workflow}/{ticket_id}"
            if await self._append([row], request, "ticket.decided_again", subject, detail):
                return row
            # Someone else decided it in between, perhaps by another policy; or it was erased.

    async def many(
        self,
        active: Active,
        window: Window,
        request: Request,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Decide again the newest revision of every decided ticket of the window; how many.

        Left out are erased tickets and those whose newest decision stands, so that it can be
        interrupted and run again. `progress` is given the count so far.
        """
        workflow, count = active.release.workflow, 0
        detail: dict[str, object] = {
            "since": window.since.isoformat(),
            "until": window.until.isoformat(),
            "policy_hash": active.policy.hash,
        }
        standard = self.standard(active)
        async for found in outdated.batches(self._db, workflow, window, standard, size=BATCH):
            tickets = [StoredTicket.from_row(row, active.schema) for row in found]
            rows = [
                row
                for row, newest in zip(self._rows(active, tickets, found), found, strict=True)
                if not _is_no_news(row, newest)
            ]
            count += await self._append(rows, request, "tickets.decided_again", workflow, detail)
            progress(count)
        return count

    def standard(self, active: Active) -> Standard:
        """What a newest decision must be by to stand."""
        has_model = active.policy.model is not None
        return Standard(active.policy.hash, self._serving.fingerprint, has_model)

    async def _ticket(self, active: Active, ticket_id: str, revision: int) -> StoredTicket:
        stored = None
        if 1 <= revision <= MAX_REVISION:
            stored = await reading.ticket(self._db, active.release.workflow, ticket_id, revision)
        if stored is None:
            hint = "Ticket ids are compared letter by letter."
            raise UnknownRevision(hint=hint, ticket_id=ticket_id, revision=revision)
        if stored["content"] is None:
            hint = "Nothing is left to decide by."
            raise ErasedTicket(hint=hint, ticket_id=ticket_id, revision=revision)
        return StoredTicket.from_row(stored, active.schema)

    def _rows(
        self, active: Active, tickets: Sequence[StoredTicket], newest: Sequence[Mapping[str, Any]]
    ) -> list[Row]:
        """What the policy in production says of the tickets, each behind its newest decision."""
        ordinals = [row["ordinal"] + 1 for row in newest]
        return self._serving.rows(active, tickets, _columns(active, tickets), ordinals)

    async def _append(
        self,
        rows: Sequence[Row],
        request: Request,
        action: str,
        subject: str,
        detail: Mapping[str, object],
    ) -> int:
        """Store the decisions that nobody else has made and whose ticket has its content."""
        async with self._lane.unit() as unit:
            whole = await erasure.not_erased(unit.conn, rows)
            stored = await commit.commit(unit, whole)
            count = sum(found is row for row, found in zip(whole, stored, strict=True))
            if count:
                told = {**detail, "decisions": count, "reason": request.reason}
                unit.note(request.actor, action, subject, told)
        return count


_HASH = "policy_hash"


def _columns(active: Active, tickets: Sequence[StoredTicket]) -> Columns:
    """Stored tickets as the policy in production takes them; what they lack is null."""
    names = active.policy.features_plan.history.context_columns
    try:
        return columns(tickets, active.schema, names)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        hint = "Submit the ticket anew, as a further revision."
        raise FieldsChanged(hint=hint, workflow=active.release.workflow) from error


def _is_no_news(row: Row, newest: Mapping[str, Any]) -> bool:
    """Whether the model failed again where it had failed before."""
    return all(row[name] == newest[name] for name in (_HASH, "fingerprint", "model_status"))
