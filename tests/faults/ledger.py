"""What a Tiebreak has acknowledged: the reference by which it is judged."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Answer = Mapping[str, Any]
EPOCH = datetime.fromtimestamp(0, UTC)
KINDS = ("single", "bulk", "outcome")


@dataclass
class Ledger:
    """Written by all clients at once; what contradicts itself is noted, never overwritten."""

    sent: dict[str, Answer] = field(default_factory=dict)  # bodies by ticket
    decisions: dict[str, str] = field(default_factory=dict)  # canonical answers by ticket
    reports: dict[str, Answer] = field(default_factory=dict)  # sent outcomes by ticket
    outcomes: dict[str, tuple[int, str]] = field(default_factory=dict)  # ordinal, known_at
    refusals: Counter[int] = field(default_factory=Counter)
    breaks: Counter[str] = field(default_factory=Counter)  # requests without a whole answer
    contradictions: list[str] = field(default_factory=list)
    repeats: int = 0  # acknowledgements of what was acknowledged before
    model_status: str = "scored"  # what every decision has to say
    newest: datetime = EPOCH  # `as_of` of all that was acknowledged
    _later_than: dict[str, datetime] = field(default_factory=dict)  # what a ticket's must be
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _begun: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))

    def send(self, ticket: Answer) -> None:
        """A ticket is about to be sent."""
        with self._lock:
            self.sent.setdefault(ticket["ticket_id"], ticket)
            self._later_than.setdefault(ticket["ticket_id"], self.newest)

    def decided(self, kind: str, answer: Answer, begun: float) -> None:
        """A request that began then was answered with this decision."""
        name, told = answer["ticket_id"], canonical(answer)
        as_of = datetime.fromisoformat(answer["as_of"])
        with self._lock:
            known = self.decisions.setdefault(name, told)
            self.repeats += known is not told
            if known != told:
                self.contradictions.append(f"{name} was told {known}, then {told}")
            if answer["revision"] != 1 or answer["ordinal"] != 1:
                self.contradictions.append(f"{name} has {told} although it was sent once")
            if answer["model"]["status"] != self.model_status:
                self.contradictions.append(f"{name} is not {self.model_status}: {told}")
            if as_of <= self._later_than[name]:
                self.contradictions.append(
                    f"{name} was sent after {self._later_than[name]}: {told}"
                )
            self.newest = max(self.newest, as_of)
            self._begun[kind] = max(self._begun[kind], begun)

    def told(self, ticket_id: str, receipt: Answer, begun: float) -> None:
        """A report that was sent then was answered with this receipt."""
        stored = receipt["ordinal"], receipt["known_at"]
        with self._lock:
            known = self.outcomes.setdefault(ticket_id, stored)
            self.repeats += known is not stored
            if known != stored:
                self.contradictions.append(f"outcome of {ticket_id}: {known}, then {stored}")
            self._begun["outcome"] = max(self._begun["outcome"], begun)

    def refused(self, status: int, body: str) -> None:
        """A request was refused; only 503 is a refusal that a fault explains."""
        with self._lock:
            self.refusals[status] += 1
            if status != 503:
                self.contradictions.append(f"refused with {status}: {body[:2000]}")

    def broke_off(self, error: Exception) -> None:
        """A request got no answer, or not all of it."""
        with self._lock:
            self.breaks[type(error).__name__] += 1

    def is_served_since(self, moment: float) -> bool:
        """Whether a request of each kind that began after this moment was acknowledged."""
        return min(self._begun.values()) > moment

    def now(self) -> Ledger:
        """What it holds at this moment, all of it acknowledged before."""
        with self._lock:
            return Ledger(
                dict(self.sent), dict(self.decisions), dict(self.reports), dict(self.outcomes)
            )


def canonical(answer: Answer) -> str:
    """The answer in one form, for whichever way it came."""
    return json.dumps(answer, sort_keys=True)


def moment() -> float:
    """The clock by which requests begin."""
    return time.monotonic()
