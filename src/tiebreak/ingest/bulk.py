"""Deciding a whole file: rows in order through the decision service, decisions out in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tiebreak.core.bodies import MAX_PROBLEMS
from tiebreak.core.tickets import Submission, read_submission
from tiebreak.decisions.service import DecisionService
from tiebreak.errors import Conflict, InvalidInput, Problem, TiebreakError
from tiebreak.ingest.outputs import Mark, Outputs
from tiebreak.ingest.rejects import Rejects
from tiebreak.ingest.rows import Row

IN_FLIGHT = 1024  # rows between reading and writing
BYTES_IN_FLIGHT = 64 << 20  # of their contents
ROWS_A_MARK = 2_000

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A row on its way: its decision to come, or why it has none."""

    number: int
    size: int
    outcome: asyncio.Task[Answer] | Sequence[Problem]


@dataclass(slots=True)
class Bulk:
    """One run over the rows of a file: who decides, and where decisions and rejects go."""

    service: DecisionService
    workflow: str
    actor: str
    outputs: Outputs
    progress: Callable[[Mark], None]
    _waiting: deque[_Waiting] = field(default_factory=deque[_Waiting])
    _size: int = 0
    _settled: int = 0  # the row up to which everything is written
    _unkept: dict[str, tuple[bytes, int]] = field(default_factory=dict[str, tuple[bytes, int]])

    async def run(self, rows: Iterable[Row]) -> Mark:
        """Decide every valid row; a row that is refused does not disturb the others.

        After an interruption it goes on from the mark: each row is decided once and written once.
        Raises what concerns all rows, such as `DatabaseUnavailable` and `FileUnreadable`; what was
        decided until then stays, and the next run goes on from there.
        """
        last = self._settled = self.outputs.mark.row
        try:
            for row in rows:
                if row.number > self.outputs.mark.row:
                    last = row.number
                    await self._take(row)
            await self._settle_until(0)
            self.outputs.finish(last)
        finally:
            await self._give_up()
        return self.outputs.mark

    async def _take(self, row: Row) -> None:
        submission = submission_of(self.service, self.workflow, row)
        if isinstance(submission, Submission):
            await self._part_revisions(submission, row.number)
            deciding = self.service.decide(self.workflow, submission, self.actor)
            waiting = _Waiting(row.number, len(submission.content), asyncio.create_task(deciding))
        else:
            waiting = _Waiting(row.number, 0, submission)
        self._waiting.append(waiting)
        self._size += waiting.size
        await self._settle_until(IN_FLIGHT - 1)

    async def _part_revisions(self, submission: Submission, number: int) -> None:
        """Put a mark between two revisions of a ticket.

        Rows after the mark may be sent again, and sending A, B again after A, B would make two
        more revisions.
        """
        before = self._unkept.get(submission.ticket_id)
        if before is not None and before[0] != submission.content_hash:
            await self._settle_until(0)
            self._keep()
        self._unkept[submission.ticket_id] = (submission.content_hash, number)

    async def _settle_until(self, most: int) -> None:
        while len(self._waiting) > most or (self._waiting and self._size > BYTES_IN_FLIGHT):
            await self._settle(self._waiting[0])
            self._size -= self._waiting.popleft().size
            if self._settled - self.outputs.mark.row >= ROWS_A_MARK:
                self._keep()

    async def _settle(self, first: _Waiting) -> None:
        if isinstance(first.outcome, asyncio.Task):
            try:
                self.outputs.decide(await first.outcome)
            except (InvalidInput, Conflict) as error:  # this row's own fault
                self.outputs.reject(first.number, (_problem(error),))
        else:
            self.outputs.reject(first.number, tuple(first.outcome))
        self._settled = first.number
        self.progress(self.outputs.mark)

    def _keep(self) -> None:
        self.outputs.keep(self._settled)
        self._unkept = {
            ticket_id: (content, number)
            for ticket_id, (content, number) in self._unkept.items()
            if number > self._settled
        }

    async def _give_up(self) -> None:
        rest = [each.outcome for each in self._waiting if isinstance(each.outcome, asyncio.Task)]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


@dataclass(slots=True)
class Check:
    """What looking at every row of a file found; nothing was decided."""

    valid: int = 0
    rejected: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])  # the first of them
    is_told: bool = True  # whether the bad rows stand in a rejects file


async def check_rows(
    service: DecisionService, workflow: str, rows: Iterable[Row], rejects: Rejects | None
) -> Check:
    """Look at every row as deciding would; bad rows go to `rejects` where it is given."""
    check = Check(is_told=rejects is not None)
    for row in rows:
        if row.number % ROWS_A_MARK == 0:
            await asyncio.sleep(0)  # the service goes on listening
        problems = _problems(service, workflow, row)
        if not problems:
            check.valid += 1
            continue
        check.rejected += 1
        room = MAX_PROBLEMS - len(check.problems)
        check.problems += [
            replace(each, where=f"row {row.number} {each.where}".strip())
            for each in problems[: max(room, 0)]
        ]
        if rejects is not None:
            rejects.add(row.number, tuple(problems))
    return check


def submission_of(
    service: DecisionService, workflow: str, row: Row
) -> Submission | Sequence[Problem]:
    """The submission in a row of a file, or its problems."""
    if row.problems:
        return row.problems
    ticket_id = service.policy(workflow).workflow.ticket_id
    return read_submission(service.schema(workflow), row.cells, ticket_id)


def _problems(service: DecisionService, workflow: str, row: Row) -> Sequence[Problem]:
    submission = submission_of(service, workflow, row)
    if not isinstance(submission, Submission):
        return submission
    try:
        service.check(workflow, submission)
    except InvalidInput as error:
        return (_problem(error),)
    return ()


def _problem(error: TiebreakError) -> Problem:
    return Problem("", error.code, error.message, error.hint)
