"""Replay: decide stored tickets again by their policy and compare every bit, or name the cause."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

import orjson

from tiebreak.core.decide import decide_stored
from tiebreak.core.policy import Policy
from tiebreak.core.stored import StoredTicket
from tiebreak.core.tickets import ticket_schema
from tiebreak.decisions.rows import (
    Row,
    contributions_of,
    decision_rows,
    is_standing_in,
    standing_in,
)
from tiebreak.errors import Problem, TiebreakError
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.registry.policies import LoadedPolicy, PolicyLibrary

SCORE_TOLERANCE = 1e-6  # between engine fingerprints
SCORES = ("margin", "score", "base_value")
EXACT = (  # on every engine
    "band",
    "rules_band",
    "model_band",
    "hard_floor",
    "route",
    "route_reason",
    "is_tie",
    "review_probability",
    "rules_points",
    "errors",
)
COMPARED = (*EXACT, *SCORES, "contributions", "fired")

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | float | None"


class Cause(StrEnum):
    """How a replay ended."""

    IDENTICAL = "identical"
    FINGERPRINT = "fingerprint"  # other engine; only floats differ, by 1e-6 at most
    ERASED = "erased"
    POLICY_MISSING = "policy_missing"
    BUNDLE_MISSING = "bundle_missing"
    DIFFERENT = "different"


EXPECTED = frozenset({Cause.IDENTICAL, Cause.FINGERPRINT, Cause.ERASED})


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision replayed: the cause, and the columns that differ."""

    decision_id: str
    ticket_id: str
    cause: Cause
    columns: tuple[str, ...] = ()
    detail: str = ""


@dataclass(slots=True)
class ReplayReport:
    """Counts by cause, and the replays that are neither identical nor explained."""

    counts: Counter[Cause] = field(default_factory=Counter[Cause])
    unexpected: list[Replayed] = field(default_factory=list[Replayed])

    def add(self, replayed: Iterable[Replayed], *, keep: int = 100) -> None:
        """Count replays; the first unexpected ones are kept to be shown."""
        for one in replayed:
            self.counts[one.cause] += 1
            if one.cause not in EXPECTED and len(self.unexpected) < keep:
                self.unexpected.append(one)

    @property
    def total(self) -> int:
        """How many decisions were replayed."""
        return self.counts.total()

    @property
    def is_clean(self) -> bool:
        """Whether every decision was identical or its difference is an expected one."""
        return all(cause in EXPECTED for cause in self.counts)


async def replay(
    pairs: AsyncIterator[Sequence[tuple[Row, Row]]],
    library: PolicyLibrary,
    progress: Callable[[int], None] = lambda _: None,
) -> ReplayReport:
    """Replay batches of (decision row, ticket row) as `store.reading` streams them."""
    report = ReplayReport()
    by_policy = itemgetter("policy_hash", "model_status")
    async for batch in pairs:
        ordered = sorted(batch, key=lambda pair: by_policy(pair[0]))
        for (policy_hash, status), group in groupby(ordered, key=lambda pair: by_policy(pair[0])):
            members = list(group)
            try:
                loaded = await library.get(policy_hash)
            except TiebreakError as error:
                report.add(_all(members, Cause.POLICY_MISSING, error.message))
                continue
            report.add(await asyncio.to_thread(_replay_group, members, loaded, status))
        progress(len(batch))
    return report


def _all(members: list[tuple[Row, Row]], cause: Cause, detail: str) -> list[Replayed]:
    return [_replayed(decision, cause, detail=detail) for decision, _ in members]


def _replay_group(
    members: list[tuple[Row, Row]], loaded: LoadedPolicy, status: str
) -> list[Replayed]:
    policy = loaded.policy
    if status == "scored" and policy.model is None:
        problem = loaded.problem or Problem("", "", "The policy names no model.")
        return _all(members, Cause.BUNDLE_MISSING, problem.message)
    if status != "scored":
        policy = policy.rules_alone()
    found = [_replayed(d, Cause.ERASED) for d, t in members if _is_erased(d, t)]
    whole = [(d, t) for d, t in members if not _is_erased(d, t)]
    return found + (_compare_group(whole, policy) if whole else [])


def _is_erased(decision: Row, ticket: Row) -> bool:
    return ticket["content"] is None or decision["fired"] is None


def _compare_group(members: list[tuple[Row, Row]], policy: Policy) -> list[Replayed]:
    schema = ticket_schema(policy.workflow)
    tickets = [StoredTicket.from_row(ticket, schema) for _, ticket in members]
    stored = [decision for decision, _ in members]
    rows = decision_rows(
        tickets,
        decide_stored(tickets, schema, policy),
        ordinals=[row["ordinal"] for row in stored],
        decided_at=stored[0]["decided_at"],
        fingerprint=engine_fingerprint().hash,
    )
    return [_compare(then, now) for then, now in zip(stored, rows, strict=True)]


def _compare(then: Row, now: Row) -> Replayed:
    """Equal columns are equal bits: floats that differ in any bit but the sign of 0 differ."""
    if is_standing_in(then):  # that a canary failed is no part of what the policy says
        now = standing_in(now)
    columns = tuple(name for name in COMPARED if then[name] != now[name])
    if not columns:
        return _replayed(then, Cause.IDENTICAL)
    if then["fingerprint"] != now["fingerprint"] and _is_close(then, now):
        return _replayed(then, Cause.FINGERPRINT, columns)
    return _replayed(then, Cause.DIFFERENT, columns)


def _is_close(then: Row, now: Row) -> bool:
    """Whether only floats differ, none by more than SCORE_TOLERANCE."""
    return (
        all(then[name] == now[name] for name in EXACT)
        and all(_are_close(then[name], now[name]) for name in SCORES)
        and _are_close(_contributions(then), _contributions(now))
        and _are_close(orjson.loads(then["fired"]), orjson.loads(now["fired"]))
    )


def _contributions(row: Row) -> list[float] | None:
    return None if row["contributions"] is None else contributions_of(row).tolist()


def _are_close(a: Json, b: Json) -> bool:
    """Whether two plain values are equal but for floats in them."""
    match a, b:
        case float(), float():
            return abs(a - b) <= SCORE_TOLERANCE
        case dict(), dict():
            return a.keys() == b.keys() and all(_are_close(a[key], b[key]) for key in a)
        case list(), list():
            return len(a) == len(b) and all(map(_are_close, a, b))
        case _:
            return a == b


def _replayed(
    decision: Mapping[str, Any], cause: Cause, columns: tuple[str, ...] = (), detail: str = ""
) -> Replayed:
    return Replayed(str(decision["decision_id"]), decision["ticket_id"], cause, columns, detail)
