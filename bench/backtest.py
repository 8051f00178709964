"""A backtest of 1.5M tickets through rules, features and model, without any cache.

The core path only: rows as the store holds them (content and context as JSON) are decoded into
columns, decided by the policy of `stage` and tallied beside a decision before, by processes on all
cores. The rows are simulated tickets, repeated under new ids and moments in each span; reading
them from Postgres is not part of it. `tiebreak` has no feature of a text, `with_text` one more: the
words of the remarks. The alternative decides ticket by ticket, as a plain loop would, and is timed
on a few.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from typing import Any

from bench.memory import watched
from bench.stage import Stage, stage
from tiebreak.backtest.comparing import Comparison
from tiebreak.backtest.window import SPAN_TICKETS
from tiebreak.backtest.workers import work

TICKETS = 1_500_000
GOAL_SECONDS = 90
SHARE_LOADED = 3  # spans on which loading is measured alone
ALONE = 2_000


@dataclass(frozen=True)
class Span:
    """What a process is asked to do: a span by its number, or to load it only."""

    number: int
    loads_only: bool = False


@dataclass(frozen=True)
class Desk:
    """What each process opens: the policy in production, and the tickets to repeat."""

    staged: Stage
    text: dict[str, bytes] | None  # the parts of a model with a text feature

    @contextmanager
    def opened(self) -> Generator[Callable[[Span], tuple[int, float]]]:
        """A function that tallies a span; how many tickets, and CPU seconds without making them."""
        from bench.backtest_rows import policy_and_rows, with_text  # only here: the engine
        from tiebreak.core.stored import loaded_columns
        from tiebreak.core.tickets import ticket_schema

        policy, rows = policy_and_rows(self.staged, SPAN_TICKETS)
        if self.text is not None:
            policy = with_text(policy, self.text)
        comparison = Comparison(policy, None, ("ticket_type",))
        names = policy.features_plan.history.context_columns
        before = {"band": 0, "route": "auto", "is_tie": False, "decision_id": None}

        def do(span: Span) -> tuple[int, float]:
            shift = timedelta(microseconds=span.number)
            made = [
                {**row, "ticket_id": f"{span.number}-{i}", "as_of": row["as_of"] + shift}
                for i, row in enumerate(rows)
            ]
            stored = {(row["ticket_id"], row["revision"]): before for row in made}
            begun = time.process_time()
            if span.loads_only:
                loaded_columns(made, ticket_schema(policy.workflow), names)
            else:
                tally = comparison.tally(made, stored, None)
                assert tally.cells.total() == len(made)
            return len(made), time.process_time() - begun

        do(Span(0))  # compiles
        yield do


def run() -> dict[str, Any]:
    """Seconds for all tickets, without and with a text, and the share that loading takes."""
    staged = stage()
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        text = other.submit(_text, staged).result()
    plain, with_text = _measured(Desk(staged, None)), _measured(Desk(staged, text))
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        alone = other.submit(_alone, staged).result()
    return {
        "tiebreak": plain,
        "with_text": with_text,
        "alternative": {"name": "the same policy, ticket by ticket in one process", **alone},
        "ratio": round(plain["tickets_per_second"] / alone["tickets_per_second"], 1),
        "policy": staged.policy,
        "goal_seconds": GOAL_SECONDS,
    }


def _text(staged: Stage) -> dict[str, bytes]:
    from bench.backtest_rows import trained_with_text

    return trained_with_text(staged)


def _alone(staged: Stage) -> dict[str, Any]:
    """Tickets a second when each is a batch of one."""
    from bench.backtest_rows import policy_and_rows
    from tiebreak.core.decide import decide
    from tiebreak.core.stored import loaded_columns
    from tiebreak.core.tickets import ticket_schema

    policy, rows = policy_and_rows(staged, ALONE)
    schema, names = ticket_schema(policy.workflow), policy.features_plan.history.context_columns
    decide(*loaded_columns(rows[:1], schema, names), policy)  # compiles
    begun = time.monotonic()
    for row in rows:
        decide(*loaded_columns([row], schema, names), policy)
    seconds = time.monotonic() - begun
    return {"tickets": len(rows), "tickets_per_second": round(len(rows) / seconds)}


def _measured(desk: Desk) -> dict[str, Any]:
    jobs = len(os.sched_getaffinity(0))
    spans = [Span(i) for i in range(TICKETS // SPAN_TICKETS)]
    loading = [Span(i, loads_only=True) for i in range(SHARE_LOADED * jobs)]
    with watched(os.getpid()) as peak:
        opened = time.monotonic()
        results = work(desk.opened, spans, jobs)
        first = next(results)
        begun = time.monotonic()
        rest = list(results)
        seconds = time.monotonic() - begun
    busy = sum(each for _, each in (first, *rest))
    loaded = list(work(desk.opened, loading, jobs))
    a_span = sum(each for _, each in loaded) / len(loaded)
    tickets = sum(count for count, _ in rest)
    return {
        "tickets": tickets + first[0],
        "seconds": round(seconds * (tickets + first[0]) / tickets, 1),
        "tickets_per_second": round(tickets / seconds),
        "cpu_seconds": round(busy, 1),
        "loading_share": round(a_span * len(spans) / busy, 2),
        "opening_seconds": round(begun - opened, 1),
        "processes": jobs,
        "peak_memory_mib": peak.mib,
    }
