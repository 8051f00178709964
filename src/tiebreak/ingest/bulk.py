"""Deciding a whole file: rows in order through the decision service, decisions out in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tiebreak.core.tickets import Submission, read_submission
from tiebreak.decisions.service import DecisionService
from tiebreak.errors import Conflict, InvalidInput, Problem
from tiebreak.ingest.files import Row

IN_FLIGHT = 1024  # rows between reading and writing

Answer = dict[str, Any]
Sink = Callable[[Answer], None]
Reject = Callable[[int, tuple[Problem, ...]], None]


@dataclass(slots=True)
class Tally:
    """What became of a file's rows."""

    rows: int = 0
    decided: int = 0
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Bulk:
    """One run over the rows of a file: who decides, and where decisions and rejects go."""

    service: DecisionService
    workflow: str
    actor: str
    write: Sink
    reject: Reject

    async def run(self, rows: Iterable[Row], progress: Callable[[Tally], None]) -> Tally:
        """Decide every valid row; a row that is refused does not disturb the others.

        Running again gives the same decisions: equal tickets are decided once. Raises what
        concerns all rows, such as `DatabaseUnavailable`; what was decided until then stays.
        """
        tally = Tally()
        waiting: deque[tuple[int, asyncio.Task[Answer]]] = deque()
        try:
            for row in rows:
                tally.rows += 1
                submission = self._submission(row)
                if not isinstance(submission, Submission):
                    self._refuse(row.number, submission, tally)
                    continue
                task = asyncio.create_task(
                    self.service.decide(self.workflow, submission, self.actor)
                )
                waiting.append((row.number, task))
                if len(waiting) >= IN_FLIGHT:
                    await self._settle(*waiting.popleft(), tally)
                    progress(tally)
            while waiting:
                await self._settle(*waiting.popleft(), tally)
                progress(tally)
        finally:
            rest = [task for _, task in waiting]
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
        return tally

    def _submission(self, row: Row) -> Submission | Sequence[Problem]:
        if row.problems:
            return row.problems
        workflow = self.service.policy(self.workflow).workflow
        return read_submission(self.service.schema(self.workflow), row.cells, workflow.ticket_id)

    async def _settle(self, number: int, task: asyncio.Task[Answer], tally: Tally) -> None:
        try:
            answer = await task
        except (InvalidInput, Conflict) as error:  # this row's own fault
            self._refuse(number, [Problem("", error.code, error.message, error.hint)], tally)
            return
        self.write(answer)
        tally.decided += 1

    def _refuse(self, number: int, problems: Sequence[Problem], tally: Tally) -> None:
        self.reject(number, tuple(problems))
        tally.rejected += 1
