"""Judges a whole Tiebreak by the ledger of what it has acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
from tests.faults.ledger import Answer, Ledger, canonical
from tests.faults.load import BOSTON
from tests.faults.stacks import Stack

from tiebreak.embedded.stack import DATABASE

SAMPLE, LAST_SAMPLE = 150, 3_000  # tickets that are sent again at each look, and in the end
LINES = 200
PATIENCE_SECONDS = 120.0  # without any answer
FINISH_SECONDS = 90.0  # for what was admitted and left undecided


@dataclass(frozen=True)
class Stored:
    """What stands in the database."""

    tickets: list[tuple[str, int]]
    decisions: dict[str, list[str]]  # ids by ticket
    outcomes: dict[str, list[tuple[int, Any]]]
    undecided: frozenset[str]


@dataclass
class Judge:
    """Looks while the load goes on; `finish` looks at everything, once the load has stopped."""

    stack: Stack
    ledger: Ledger
    chance: random.Random
    verified: int = 0  # records, at the last look
    _undecided: frozenset[str] = field(default_factory=frozenset)

    def look(self) -> list[str]:
        """All that is wrong now."""
        ledger = self.ledger.now()
        stored = self._stored()
        wrong = [*self.ledger.contradictions, *compared(ledger, stored)]
        left = sorted(self._undecided & stored.undecided)
        wrong += [f"{name} has waited undecided since the last look" for name in left[:3]]
        self._undecided = stored.undecided
        wrong += self._asked_again(ledger, self._some(ledger.decisions, SAMPLE))
        return wrong + self._trail()

    def finish(self) -> list[str]:
        """All that is wrong in the end."""
        end = time.monotonic() + FINISH_SECONDS
        while (left := self._stored().undecided) and time.monotonic() < end:
            time.sleep(1)
        wrong = [*self.ledger.contradictions]
        wrong += [f"{name} was admitted and never decided" for name in sorted(left)[:3]]
        wrong += compared(self.ledger.now(), self._stored())
        wrong += self._asked_again(self.ledger.now(), self._some(self.ledger.sent, LAST_SAMPLE))
        wrong += compared(self.ledger.now(), self._stored())
        replayed = self.stack.cli("replay", "--sample", "1000")
        if not replayed["identical"] == replayed["replayed"] > 0:
            wrong.append(f"replay: {replayed}")
        return wrong + self._trail()

    def _some(self, names: Collection[str], most: int) -> list[str]:
        return self.chance.sample(sorted(names), min(most, len(names)))

    def _trail(self) -> list[str]:
        try:
            report = self.stack.cli("audit", "verify")
        except AssertionError as error:
            return [f"audit verify: {error}"]
        self.verified = report["verified"]
        return []

    def _asked_again(self, ledger: Ledger, names: Sequence[str]) -> list[str]:
        """Send these tickets once more: who was acknowledged gets the very same answer."""
        told = resent(self.stack, [ledger.sent[name] for name in names])
        return [
            f"{name} was told {ledger.decisions[name]}, and asked again {told.get(name)}"
            for name in names
            if name in ledger.decisions and told.get(name) != ledger.decisions[name]
        ] + [f"{name} got no answer" for name in names if name not in told]

    def _stored(self) -> Stored:
        return asyncio.run(self._read())

    async def _read(self) -> Stored:
        connection = await asyncpg.connect(self.stack.server().url(DATABASE))
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                tickets = await connection.fetch(_TICKETS, BOSTON.workflow)
                decisions = await connection.fetch(_DECISIONS, BOSTON.workflow)
                outcomes = await connection.fetch(_OUTCOMES, BOSTON.workflow)
        finally:
            await connection.close()
        by_ticket: dict[str, list[str]] = {}
        for row in decisions:
            by_ticket.setdefault(row["ticket_id"], []).append(str(row["decision_id"]))
        told: dict[str, list[tuple[int, Any]]] = {}
        for row in outcomes:
            told.setdefault(row["ticket_id"], []).append((row["ordinal"], row["known_at"]))
        admitted = [(row["ticket_id"], row["revision"]) for row in tickets]
        undecided = frozenset(name for name, _ in admitted if name not in by_ticket)
        return Stored(admitted, by_ticket, told, undecided)


def compared(ledger: Ledger, stored: Stored) -> list[str]:
    """What was acknowledged and is not there, and what is there more than once."""
    wrong: list[str] = []
    for name, told in ledger.decisions.items():
        if json.loads(told)["decision_id"] not in stored.decisions.get(name, ()):
            wrong.append(f"LOST: the decision {told}")
    for name in ledger.outcomes.keys() - stored.outcomes.keys():
        wrong.append(f"LOST: the outcome of {name}, {ledger.outcomes[name]}")
    doubled = [name for name, ids in stored.decisions.items() if len(ids) > 1]
    doubled += _more_than_once(stored.tickets)
    doubled += [name for name, told in stored.outcomes.items() if len(told) > 1]
    wrong += [f"DOUBLED: {name}" for name in doubled]
    wrong += [f"{name} has revision {number}" for name, number in stored.tickets if number != 1]
    return wrong


def _more_than_once(rows: Iterable[tuple[str, int]]) -> list[str]:
    return [name for (name, _), number in Counter(rows).items() if number > 1]


def resent(stack: Stack, tickets: Sequence[Answer]) -> dict[str, str]:
    """What each ticket is told when it is sent again, in canonical form; waits out refusals."""
    told: dict[str, str] = {}
    end = time.monotonic() + PATIENCE_SECONDS
    headers = {
        "Authorization": f"Bearer {stack.token}",
        "Content-Type": "application/x-ndjson",
    }
    with httpx.Client(timeout=PATIENCE_SECONDS, headers=headers) as http:
        while time.monotonic() < end:
            left = [ticket for ticket in tickets if ticket["ticket_id"] not in told]
            if not left:
                break
            path = f"{stack.address()}/v1/workflows/{BOSTON.workflow}/decisions:batch"
            body = "\n".join(map(json.dumps, left[:LINES])).encode()
            try:
                answer = http.post(path, content=body)
            except httpx.HTTPError:
                time.sleep(0.2)
                continue
            for line in answer.text.splitlines() if answer.status_code == 200 else ():
                each = json.loads(line)
                if each["status"] == 200:
                    end = time.monotonic() + PATIENCE_SECONDS
                    told[each["decision"]["ticket_id"]] = canonical(each["decision"])
    return told


_TICKETS = "SELECT ticket_id, revision FROM tickets WHERE workflow = $1"
_DECISIONS = "SELECT ticket_id, decision_id FROM decisions WHERE workflow = $1"
_OUTCOMES = "SELECT ticket_id, ordinal, known_at FROM outcomes WHERE workflow = $1"
