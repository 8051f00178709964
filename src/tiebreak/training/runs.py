"""Training runs: what is asked for becomes a signed bundle, and every run is on record.

A run is a process of its own with limits (`training.process`), supervised from here: what it told
is beaten into its turn, what ends it is told by one error, and only what it handed over whole and
as asked for is signed and stored. The record of the run and the end of its turn are one
transaction, so that a run whose supervisor was killed is found by the turn it still has.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import orjson
import structlog

from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.errors import NotFound, TiebreakError
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.settings import Keyring, Settings
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.erasure import erased_since
from tiebreak.store.unit import Connection
from tiebreak.supervised.process import supervised
from tiebreak.training import handover, process, turns
from tiebreak.training.ends import (
    RunAbandoned,
    RunCancelled,
    RunCrashed,
    RunTimedOut,
    TurnLost,
    out_of_memory,
    result_of,
)
from tiebreak.training.fit import Progress
from tiebreak.training.kept_snapshots import remove_if_it_holds
from tiebreak.training.process import Trained
from tiebreak.training.requests import Request
from tiebreak.training.tracking import Tracked, track
from tiebreak.training.turns import Turn
from tiebreak.workflows import versions

BEAT_SECONDS = 0.5
LOCK_PATIENCE_SECONDS = 5.0
BY_INTERRUPT = "interrupted"
CLOCKS_APART = timedelta(hours=1)

log = structlog.get_logger("tiebreak.training")


class UnknownRun(NotFound):
    """There is no such training run."""

    code = "unknown_training_run"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run: what was bundled, how good it is, and where else it was told of."""

    run_id: uuid.UUID
    workflow: str
    digest: str
    manifest: dict[str, Any]
    tracked: Tracked


@dataclass(frozen=True, slots=True)
class Trainer:
    """Trains, supervises and records, with the keys of this installation."""

    db: Database
    lane: Lane
    settings: Settings
    keyring: Keyring

    @property
    def artifacts(self) -> ArtifactStore:
        """Where bundles go."""
        return ArtifactStore.of(self.settings)

    async def run(self, request: Request, progress: Progress) -> Run:
        """Train, sign and store the bundle as the workflow's candidate; wait for it.

        However it ends, the run is recorded. Raises TrainingBusy, what `read_snapshot` and
        `train` raise, and the errors of `training.ends`.
        """
        async with turns.held(self.db, request.workflow) as conn:
            if conn is None:
                async with self.db.connection() as other:
                    raise await turns.busy(other, request.workflow)
            await self._settle(conn, request.workflow)
            turn = await turns.ask(conn, request, "running")
            return await self._supervise(conn, turn, progress)

    async def queue(self, request: Request) -> Turn:
        """Let a run wait for whoever calls `run_queued`. Raises TrainingBusy."""
        await self.settle(request.workflow)
        async with self.db.connection() as conn:
            return await turns.ask(conn, request, "queued")

    async def run_queued(self, run_id: uuid.UUID) -> Run | None:
        """Run what was queued; None where it has ended, runs already, or was cancelled.

        Calling it twice is no harm: of a run that has begun once, nothing is begun again.
        """
        async with self.db.connection() as conn:
            waiting = await turns.find(conn, run_id)
        until = asyncio.get_running_loop().time() + LOCK_PATIENCE_SECONDS
        while waiting is not None:
            async with turns.held(self.db, waiting.workflow) as conn:
                if conn is not None:
                    await self._settle(conn, waiting.workflow)
                    turn = await turns.find(conn, run_id)
                    if turn is None:
                        return None
                    turn = await turns.begin(conn, turn)
                    return await self._supervise(conn, turn, lambda _step, _share: None)
            if asyncio.get_running_loop().time() > until:
                return None
            await asyncio.sleep(BEAT_SECONDS)
        return None

    async def cancel(self, run_id: uuid.UUID, *, by: str, reason: str) -> Turn:
        """Ask for the end of a run; one that only waits, or was left, has ended when this returns.

        Raises UnknownRun where it neither waits nor runs.
        """
        async with self.db.connection() as conn:
            turn = await turns.cancel(conn, run_id, by, reason)
        if turn is None:
            raise UnknownRun(
                "No training run of this id waits or runs.",
                hint="`tiebreak training list` lists them.",
                run_id=str(run_id),
            )
        await self.settle(turn.workflow)
        return turn

    async def settle(self, workflow: str) -> None:
        """Record the end of a run of this workflow that nobody supervises any more."""
        async with turns.held(self.db, workflow) as conn:
            if conn is not None:
                await self._settle(conn, workflow)

    async def _settle(self, conn: Connection, workflow: str) -> None:
        turn = await turns.current(conn, workflow)
        if turn is None:
            return
        if turn.state == "running":
            await self._end(turn, RunAbandoned())
        elif turn.cancelled_by is not None:
            await self._end(turn, RunCancelled())

    async def _supervise(self, conn: Connection, turn: Turn, progress: Progress) -> Run:
        """See a run through, to its bundle or its error, and record it."""
        try:
            trained = await self._trained(conn, turn, progress)
            digest = await asyncio.to_thread(self._store, trained)
            await self._forget(conn, turn, trained)
            tracked = await track(self.settings, turn, trained, digest)
        except TurnLost:
            raise  # it is recorded by who finds it
        except asyncio.CancelledError:
            await self._end(
                replace(turn, cancelled_by=turn.request.author, cancel_reason=BY_INTERRUPT),
                RunCancelled(),
            )
            raise
        except TiebreakError as error:
            await self._end(turn, error)
            raise
        except Exception as error:
            await self._end(turn, RunCrashed(f"The supervisor met {type(error).__name__}."))
            raise
        manifest = trained.manifest
        metrics = {
            **manifest["metrics"],
            **{name: manifest[name] for name in ("family", "families", "rows")},
            "tracking": asdict(tracked),
        }
        await self._record(turn, "bundled", metrics, digest, manifest["versions"])
        self.artifacts.set_alias(turn.workflow, "risk_model_candidate", digest)
        return Run(turn.run_id, turn.workflow, digest, manifest, tracked)

    async def _trained(self, conn: Connection, turn: Turn, progress: Progress) -> Trained:
        """What the process hands over, while its turn tells how far it is and it may be ended."""
        request, limits = turn.request, self.settings.training
        stored = await versions.addressed(self.db, request.workflow, request.workflow_version)
        job = process.job(request, stored.workflow, self.settings, self.keyring.entity_key)
        environment = process.environment(self.settings.data_dir)
        async with supervised(process.MODULE, job, environment) as child:
            result = asyncio.create_task(process.trained(child, turn.told))
            try:
                async with asyncio.timeout(limits.wall_seconds):
                    while not result.done():
                        await asyncio.wait({result}, timeout=BEAT_SECONDS)
                        progress(turn.told.step, turn.told.share)
                        if child.takes_more_than(limits.memory_bytes):
                            raise out_of_memory()
                        now = await turns.beat(conn, turn)
                        if now.cancelled_by is not None:
                            raise RunCancelled(
                                hint=f"By {now.cancelled_by}: {now.cancel_reason}",
                                cancelled_by=now.cancelled_by,
                            )
            except TimeoutError:
                raise RunTimedOut(
                    hint="Raise TIEBREAK_TRAINING__WALL_SECONDS, or train fewer trees."
                ) from None
            finally:
                result.cancel()
                await asyncio.gather(result, return_exceptions=True)
            trained = result.result()
            process.check(trained, request, turn.told)
            return trained

    def _store(self, trained: Trained) -> str:
        keys = BundleKeys.of(self.keyring)
        digest = self.artifacts.put_bundle(make_bundle(trained.parts, keys))
        handover.store(self.artifacts, digest, trained.beside)
        return digest

    async def _forget(self, conn: Connection, turn: Turn, trained: Trained) -> None:
        """Remove the snapshot again where a ticket in it was erased while the run had read it.

        Who erases after this has found the snapshot in its place, and removes it himself.
        """
        since = (turn.started_at or turn.asked_at) - CLOCKS_APART
        erased = await erased_since(conn, turn.workflow, since)
        if erased:
            kept = handover.snapshot_hash(trained.beside)
            await asyncio.to_thread(remove_if_it_holds, self.artifacts, kept, erased)

    async def _end(self, turn: Turn, error: TiebreakError) -> None:
        """Record a run from which no bundle came."""
        metrics: dict[str, Any] = {
            "error": error.code,
            "message": error.message,
            "step": turn.told.step,
        }
        if isinstance(error, RunCancelled):
            async with self.db.connection() as conn:
                now = await turns.find(conn, turn.run_id)
            said = now if now is not None and now.cancelled_by is not None else turn
            metrics |= {"cancelled_by": said.cancelled_by, "cancel_reason": said.cancel_reason}
        if error.fields:
            metrics["fields"] = dict(error.fields)
        await self._record(turn, result_of(error), metrics)

    async def _record(
        self,
        turn: Turn,
        result: str,
        metrics: dict[str, Any],
        digest: str | None = None,
        libraries: dict[str, str] | None = None,
    ) -> None:
        """The run's record and the end of its turn, at once. Raises TurnLost."""
        row = _row(turn, result, metrics, digest, libraries or {"tiebreak": version("tiebreak")})
        kept = ("result", "bundle_digest", "data_hash", "reason")
        detail = {name: row[name] for name in kept}
        async with self.lane.unit() as unit:
            await turns.leave(unit.conn, turn)
            unit.add(tables.ml_training_runs, [row])
            subject = f"{turn.workflow}/{turn.run_id}"
            unit.note(turn.request.author, "training.finished", subject, detail)
        log.debug("training finished", run_id=str(turn.run_id), result=result)


def _row(
    turn: Turn, result: str, metrics: dict[str, Any], digest: str | None, libraries: dict[str, str]
) -> dict[str, Any]:
    request = turn.request
    data = turn.told.data or {"data_hash": None, "parameters": request.asked}
    return {
        "run_id": turn.run_id,
        "workflow": turn.workflow,
        "workflow_version": request.workflow_version,
        "bundle_digest": digest,
        "data_hash": data["data_hash"],
        "seed": request.parameters.seed,
        "parameters": _json({**data["parameters"], "known_by": request.known_by}),
        "metrics": _json(metrics),
        "versions": _json({**libraries, "fingerprint": engine_fingerprint().hash}),
        "started_at": turn.started_at or turn.asked_at,
        "finished_at": datetime.now(UTC),
        "author": request.author,
        "reason": request.reason,
        "result": result,
    }


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
