"""Seeing orders through: each runs in a process of its own, with limits, and leaves a named end."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from tiebreak.audit.lanes import Lane
from tiebreak.backtest.orders import TASK, Order, Orders, Standing, State, UnknownOrder
from tiebreak.backtest.plans import check_segments
from tiebreak.errors import Conflict, TiebreakError, Unavailable
from tiebreak.settings import Settings
from tiebreak.supervised import failures, queue
from tiebreak.supervised.process import ProcessEnded, Supervised, supervised

MODULE = "tiebreak.backtest.child"
BEAT_SECONDS = 0.5
MEMORY_HINT = "Raise TIEBREAK_BACKTEST__MEMORY_BYTES, or backtest a shorter window."


class BacktestBusy(Conflict):
    """A backtest of this workflow waits or runs already."""

    code = "backtest_busy"


class BacktestCancelled(Conflict):
    """The backtest was cancelled."""

    code = "backtest_cancelled"


class BacktestTimedOut(Unavailable):
    """The backtest took more time than it may."""

    code = "backtest_timed_out"


class BacktestOutOfMemory(Unavailable):
    """The backtest needed more memory than it may take."""

    code = "backtest_out_of_memory"


class BacktestCrashed(Unavailable):
    """The process of the backtest ended by itself."""

    code = "backtest_crashed"


class BacktestAbandoned(Unavailable):
    """The process that supervised the backtest was gone."""

    code = "backtest_abandoned"


_STATES: Mapping[type[TiebreakError], State] = {
    BacktestCancelled: "cancelled",
    BacktestTimedOut: "timed_out",
    BacktestOutOfMemory: "out_of_memory",
    BacktestCrashed: "crashed",
    BacktestAbandoned: "abandoned",
}


@dataclass(slots=True)
class _Told:
    """What a process has told so far."""

    step: str = "start"
    share: float = 0.0
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Takes orders, runs and ends them, and notes in the journal what became of each."""

    lane: Lane
    settings: Settings

    @property
    def orders(self) -> Orders:
        """The orders of this installation."""
        return Orders.of(self.settings)

    async def ask(self, order: Order) -> Standing:
        """Let an order wait for a task worker. Raises `SegmentUnfit`, `BacktestBusy`."""
        orders = self.orders
        check_segments(order.request.candidate.workflow, order.request.by)
        await self.settle()
        await asyncio.to_thread(_put, orders, order)
        await self._note(order.author, "backtest.asked", order, {})
        await asyncio.to_thread(queue.send, self.settings.redis.url, TASK, order.run_id)
        return orders.get(order.run_id)

    async def run(self, run_id: uuid.UUID) -> State | None:
        """See an order through to its end; None where it has ended or another process has it.

        Calling it twice is no harm: what has begun once is not begun again. Raises `UnknownOrder`.
        """
        self.orders.get(run_id)
        with self.orders.held(run_id) as is_ours:
            if not is_ours:
                return None
            standing = await self._settled(run_id)
            if not standing.is_open:
                return None
            try:
                made = await self._made(standing.order)
            except TiebreakError as error:
                return await self._end(standing.order, error)
            except asyncio.CancelledError:
                await self._end(standing.order, BacktestAbandoned())
                raise
            except Exception as error:
                kind = type(error).__name__
                await self._end(standing.order, BacktestCrashed(f"The supervisor met {kind}."))
                raise
            return await self._end(standing.order, backtest=made)

    async def cancel(self, run_id: uuid.UUID, *, by: str, reason: str) -> Standing:
        """Ask for the end of an order; one that only waits, or was left, has ended after it.

        Raises `UnknownOrder` where it neither waits nor runs.
        """
        if not self.orders.get(run_id).is_open:
            raise UnknownOrder(
                "No backtest of this id waits or runs.",
                hint="GET /v1/releases/backtests lists them.",
                run_id=str(run_id),
            )
        self.orders.cancel(run_id, by, reason)
        await self._settle(run_id)
        return self.orders.get(run_id)

    async def settle(self) -> list[Standing]:
        """End what nobody supervises any more; the orders that wait still, or run."""
        for standing in self.orders.open():
            await self._settle(standing.order.run_id)
        return list(self.orders.open())

    async def _settle(self, run_id: uuid.UUID) -> None:
        standing = self.orders.get(run_id)
        if standing.state == "queued" and standing.cancelled_by is None:
            return  # a worker may want to begin it just now
        with self.orders.held(run_id) as is_ours:
            if is_ours:
                await self._settled(run_id)

    async def _settled(self, run_id: uuid.UUID) -> Standing:
        """The order, ended where it had begun or nobody wants it; it is ours."""
        standing = self.orders.get(run_id)
        if standing.state == "running":
            await self._end(standing.order, BacktestAbandoned(hint="Ask for it again."))
        elif standing.state == "queued" and standing.cancelled_by is not None:
            await self._end(standing.order, _cancelled(self.orders, run_id))
        return self.orders.get(run_id)

    async def _made(self, order: Order) -> str:
        """The id of the evidence, while the order tells how far it is and may be ended."""
        orders, limits, told = self.orders, self.settings.backtest, _Told()
        _tell(orders, order.run_id, told)
        job = orjson.dumps({"run_id": str(order.run_id)})
        environment = {**os.environ, "POLARS_MAX_THREADS": "1"}
        async with supervised(MODULE, job, environment) as child:
            result = asyncio.create_task(_result(child, told))
            try:
                async with asyncio.timeout(limits.wall_seconds):
                    while not result.done():
                        await asyncio.wait({result}, timeout=BEAT_SECONDS)
                        _tell(orders, order.run_id, told)
                        if child.takes_more_than(limits.memory_bytes):
                            raise BacktestOutOfMemory(hint=MEMORY_HINT)
                        if orders.cancelled(order.run_id) is not None:
                            raise _cancelled(orders, order.run_id)
            except TimeoutError:
                raise BacktestTimedOut(
                    hint="Raise TIEBREAK_BACKTEST__WALL_SECONDS, or ask again: it goes on."
                ) from None
            finally:
                result.cancel()
                await asyncio.gather(result, return_exceptions=True)
            return result.result()

    async def _end(
        self, order: Order, error: TiebreakError | None = None, backtest: str | None = None
    ) -> State:
        state: State = "finished" if error is None else _STATES.get(type(error), "failed")
        detail: dict[str, object] = {"state": state, "backtest": backtest}
        if error is not None:
            detail["error"] = error.code
        cancel = self.orders.cancelled(order.run_id)
        actor = cancel["by"] if state == "cancelled" and cancel else order.author
        if state == "cancelled" and cancel:
            detail["reason"] = cancel["reason"]
        await self._note(actor, "backtest.ended", order, detail)
        self.orders.end(
            order.run_id,
            state,
            datetime.now(UTC),
            backtest=backtest,
            error=None if error is None else _as_data(error),
        )
        return state

    async def _note(
        self, actor: str, action: str, order: Order, detail: Mapping[str, object]
    ) -> None:
        async with self.lane.unit() as unit:
            subject = f"{order.request.workflow}/{order.policy_hash}"
            unit.note(actor, action, subject, {"run": str(order.run_id), **detail})


async def _result(child: Supervised, told: _Told) -> str:
    """The id of the evidence, while `told` follows how far it is. Raises how it ended else."""
    try:
        async for line in child.lines():
            if "step" in line:
                told.step, told.share = line["step"], line["share"]
            elif "made" in line:
                return line["made"]
            elif "refused" in line:
                raise failures.refusal(line["refused"])
            elif "out_of_memory" in line:
                raise BacktestOutOfMemory(hint=MEMORY_HINT)
            else:
                crashed = line["crashed"]
                message = f"It met an error that nobody foresaw: {crashed['kind']}."
                raise BacktestCrashed(message, places=crashed["places"])
    except ProcessEnded as ended:
        if failures.lacks_memory(ended.last_words):
            raise BacktestOutOfMemory(hint=MEMORY_HINT) from None
        hint = "Somebody killed it, or the system was short of memory: see the system's log."
        raise BacktestCrashed(ended.message, hint=hint if ended.exit_code == -9 else "") from None
    raise BacktestCrashed("The process ended without a word.")


def _put(orders: Orders, order: Order) -> None:
    """Keep a new order where its workflow has none that waits or runs. Raises `BacktestBusy`."""
    with orders.asking():
        for other in orders.open():
            if other.order.request.workflow == order.request.workflow:
                raise _busy(other)
        orders.put(order)


def _tell(orders: Orders, run_id: uuid.UUID, told: _Told) -> None:
    orders.tell(
        run_id, {"started_at": told.started_at, "step": told.step, "share": round(told.share, 4)}
    )


def _cancelled(orders: Orders, run_id: uuid.UUID) -> BacktestCancelled:
    said = orders.cancelled(run_id)
    assert said is not None
    return BacktestCancelled(
        hint=f"By {said['by']}: {said['reason']}", cancelled_by=said["by"], reason=said["reason"]
    )


def _busy(other: Standing) -> BacktestBusy:
    run_id = str(other.order.run_id)
    return BacktestBusy(
        f"A backtest of {other.order.request.workflow} is {other.state} already.",
        hint=f"Wait for it, or end it: POST /v1/releases/backtests/{run_id}/cancel.",
        run_id=run_id,
    )


def _as_data(error: TiebreakError) -> dict[str, Any]:
    return {name: value for name, value in failures.told(error).items() if name != "family"}
