"""Orders: backtests that somebody asked for, to be run by a task worker; as files.

    <data>/backtests/orders/<run id>/order.json      what is asked; never changed
                                     progress.json   how far it is, once it has begun
                                     cancel.json     who wants its end; the first one counts
                                     end.json        what came of it
                                     lock            held by who supervises it, while it lives

The kernel frees a lock when its holder is gone. So an order that has begun and not ended while its
lock is free tells of a supervisor that died.

Of a workflow's orders that have ended the newest are kept. One that goes loses `order.json` first,
and readers read that last: so none takes a removed order for one that waits.
"""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import orjson
from pydantic import TypeAdapter

from tiebreak.backtest.evidence import Evidence
from tiebreak.backtest.plans import Request
from tiebreak.bundles.folder import write_whole
from tiebreak.errors import NotFound
from tiebreak.registry.policies import Recipe
from tiebreak.settings import Settings

TASK = "backtest.run"
ORDER, PROGRESS, CANCEL, END = "order.json", "progress.json", "cancel.json", "end.json"
KEPT = 100  # ended orders of a workflow
WAITS_OR_RUNS = ("queued", "running")

State = Literal[
    "queued",
    "running",
    "finished",  # there is evidence
    "failed",  # it was refused: no baseline, a model that does not load, …
    "cancelled",  # somebody asked for it
    "timed_out",  # it took more time than it may
    "out_of_memory",  # it took more memory than it may
    "crashed",  # its process ended, or met an error of ours
    "abandoned",  # who supervised it was gone; found later
]


class UnknownOrder(NotFound):
    """There is no such run of a backtest."""

    code = "unknown_backtest_run"


@dataclass(frozen=True, slots=True)
class Order:
    """A backtest that is asked for, with all that its policies are made of."""

    run_id: uuid.UUID
    request: Request
    minutes_a_review: float
    author: str
    asked_at: datetime

    @property
    def policy_hash(self) -> str:
        """The policy that is to be tried."""
        return self.request.candidate.parts.hash


@dataclass(frozen=True, slots=True)
class Standing:
    """An order and where it stands."""

    order: Order
    state: State
    step: str | None
    share: float | None
    started_at: datetime | None
    finished_at: datetime | None
    cancelled_by: str | None
    backtest_id: str | None
    error: Mapping[str, Any] | None

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs."""
        return self.state in WAITS_OR_RUNS


@dataclass(frozen=True, slots=True)
class Orders:
    """The folder of orders."""

    folder: Path

    @classmethod
    def of(cls, settings: Settings) -> Orders:
        """The orders of an installation."""
        return cls(Evidence.of(settings).folder / "orders")

    def put(self, order: Order) -> None:
        """Keep a new order; of those of its workflow that have ended the newest `KEPT` stay."""
        write_whole(self._file(order.run_id, ORDER), _ORDER.dump_json(order))
        ended = [each for each in self.list(order.request.workflow) if not each.is_open]
        for gone in ended[KEPT:]:
            folder = self._file(gone.order.run_id, ORDER).parent
            (folder / ORDER).unlink()
            shutil.rmtree(folder)

    def get(self, run_id: uuid.UUID) -> Standing:
        """An order and where it stands. Raises `UnknownOrder`."""
        end, told = self._read(run_id, END), self._read(run_id, PROGRESS) or {}
        cancel = self._read(run_id, CANCEL) or {}
        try:
            order = _ORDER.validate_json(self._file(run_id, ORDER).read_bytes())
        except FileNotFoundError:
            raise UnknownOrder(
                hint="GET /v1/releases/backtests lists them.", run_id=str(run_id)
            ) from None
        state: State = "running" if told else "queued"
        return Standing(
            order=order,
            state=state if end is None else end["state"],
            step=told.get("step"),
            share=told.get("share"),
            started_at=_moment(told.get("started_at")),
            finished_at=None if end is None else _moment(end["finished_at"]),
            cancelled_by=cancel.get("by"),
            backtest_id=None if end is None else end["backtest"],
            error=None if end is None else end["error"],
        )

    def list(self, workflow: str | None = None) -> Sequence[Standing]:
        """All orders, of one workflow or of all, newest first."""
        found = self._known(self._ids())
        mine = [each for each in found if workflow in (None, each.order.request.workflow)]
        return sorted(mine, key=lambda each: each.order.asked_at, reverse=True)

    def open(self) -> Sequence[Standing]:
        """The orders that wait or run, oldest first."""
        ids = [each for each in self._ids() if not self._file(each, END).exists()]
        found = [standing for standing in self._known(ids) if standing.is_open]
        return sorted(found, key=lambda each: each.order.asked_at)

    def recipe(self, policy_hash: str) -> Recipe | None:
        """What a policy that was asked for is made of; None where none is, or it was altered."""
        for standing in self.list():
            recipe = standing.order.request.candidate
            built = Recipe.of(recipe.workflow, recipe.rule_set, recipe.parts)
            if built.parts.hash == policy_hash:
                return built
        return None

    def tell(self, run_id: uuid.UUID, told: Mapping[str, Any]) -> None:
        """Say how far an order is: `started_at`, `step` and `share`."""
        write_whole(self._file(run_id, PROGRESS), orjson.dumps(told))

    def cancel(self, run_id: uuid.UUID, by: str, reason: str) -> None:
        """Ask for the end of an order; the first one who asks counts."""
        if not self._file(run_id, CANCEL).exists():
            said = {"by": by, "reason": reason}
            write_whole(self._file(run_id, CANCEL), orjson.dumps(said))

    def cancelled(self, run_id: uuid.UUID) -> Mapping[str, str] | None:
        """Who wants its end, and why."""
        return self._read(run_id, CANCEL)

    def end(
        self,
        run_id: uuid.UUID,
        state: State,
        finished_at: datetime,
        *,
        backtest: str | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """Say what came of an order."""
        told = {"state": state, "finished_at": finished_at, "backtest": backtest, "error": error}
        write_whole(self._file(run_id, END), orjson.dumps(told))

    @contextmanager
    def held(self, run_id: uuid.UUID) -> Generator[bool]:
        """The order is ours; False where another process has it."""
        with _locked(self._file(run_id, "lock").open("w"), fcntl.LOCK_EX | fcntl.LOCK_NB) as ours:
            yield ours

    @contextmanager
    def asking(self) -> Generator[None]:
        """Nobody else asks for a backtest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked((self.folder / "lock").open("w"), fcntl.LOCK_EX):
            yield

    def _known(self, ids: Iterable[uuid.UUID]) -> Iterator[Standing]:
        """Those of them that are still there."""
        for run_id in ids:
            with suppress(UnknownOrder):
                yield self.get(run_id)

    def _ids(self) -> Sequence[uuid.UUID]:
        return [uuid.UUID(path.parent.name) for path in sorted(self.folder.glob(f"*/{ORDER}"))]

    def _file(self, run_id: uuid.UUID, name: str) -> Path:
        return self.folder / str(run_id) / name

    def _read(self, run_id: uuid.UUID, name: str) -> dict[str, Any] | None:
        try:
            return orjson.loads(self._file(run_id, name).read_bytes())
        except FileNotFoundError:
            return None


@contextmanager
def _locked(file: TextIO, how: int) -> Generator[bool]:
    with file:
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            yield False
        else:
            yield True


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


_ORDER = TypeAdapter(Order)
