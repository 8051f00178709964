"""Training runs: a snapshot becomes a signed bundle, and the run is on record either way."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.workflow import FamilyChoice, Workflow
from tiebreak.errors import TiebreakError
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.training import handover
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Parameters, Progress
from tiebreak.training.snapshot import read_snapshot
from tiebreak.training.train import TrainingResult, train

VALIDATION_SHARE = 0.2  # of the tickets, the latest ones, where no `valid_from` is given


@dataclass(frozen=True, slots=True)
class Run:
    """A finished training run: what was bundled and how good it is."""

    run_id: uuid.UUID
    workflow: str
    digest: str
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trainer:
    """Where runs are recorded, where bundles go, by which keys they are signed.

    `entity_secret` is the key by which the history log knows entities.
    """

    db: Database
    lane: Lane
    artifacts: ArtifactStore
    keys: BundleKeys
    entity_secret: bytes

    async def run(
        self,
        workflow: Workflow,
        *,
        known_by: datetime,
        valid_from: datetime | None,
        family: FamilyChoice | None,
        parameters: Parameters,
        author: str,
        reason: str,
        progress: Progress,
    ) -> Run:
        """Train on what was known by then, sign and store the bundle as the workflow's candidate.

        `valid_from` None puts the latest `VALIDATION_SHARE` of the tickets aside for validation,
        `family` None takes the workflow's; they replace those of `parameters`. The run is
        recorded as `failed` when training refuses. Raises what `read_snapshot` and `train` raise.
        """
        started_at = datetime.now(UTC)
        progress("read", 0.0)
        snapshot = await read_snapshot(
            self.db, workflow, known_by=known_by, entity_secret=self.entity_secret
        )
        parameters = replace(
            parameters,
            valid_from=valid_from or latest_share(snapshot),
            family=family or workflow.family,
        )
        row = _row(snapshot, parameters, author, reason, started_at)
        fingerprint = engine_fingerprint().hash
        try:
            result = await asyncio.to_thread(
                train, snapshot, parameters, progress, fingerprint=fingerprint
            )
        except TiebreakError as error:
            await self._record(row | {"result": "failed", "metrics": _json({"error": error.code})})
            raise
        digest = await asyncio.to_thread(self._store, snapshot, result)
        metrics = {**result.metrics, **{k: result.manifest[k] for k in ("family", "families")}}
        done = {"bundle_digest": digest, "result": "bundled", "metrics": _json(metrics)}
        await self._record(row | done | {"versions": _json(result.manifest["versions"])})
        return Run(row["run_id"], workflow.name, digest, result.manifest)

    def _store(self, snapshot: Snapshot, result: TrainingResult) -> str:
        parts, beside = handover.unwrap(handover.wrap(snapshot, result))
        digest = self.artifacts.put_bundle(make_bundle(parts, self.keys))
        handover.store(self.artifacts, digest, beside)
        self.artifacts.set_alias(snapshot.workflow.name, "risk_model_candidate", digest)
        return digest

    async def _record(self, row: dict[str, Any]) -> None:
        row["finished_at"] = datetime.now(UTC)
        subject = f"{row['workflow']}/{row['run_id']}"
        detail = {key: row[key] for key in ("result", "bundle_digest", "data_hash", "reason")}
        async with self.lane.unit() as unit:
            unit.add(tables.ml_training_runs, [row])
            journal = entry(row["author"], "training.finished", subject, detail)
            unit.add(tables.system_audit, [journal])


def latest_share(snapshot: Snapshot, share: float = VALIDATION_SHARE) -> datetime:
    """The moment from which on this share of the snapshot's tickets lies."""
    moment = snapshot.as_of.sort()[int(len(snapshot.as_of) * (1.0 - share))]
    assert isinstance(moment, datetime)
    return moment


def _row(
    snapshot: Snapshot, parameters: Parameters, author: str, reason: str, started_at: datetime
) -> dict[str, Any]:
    return {
        "run_id": uuid.uuid4(),
        "workflow": snapshot.workflow.name,
        "workflow_version": snapshot.workflow.version,
        "bundle_digest": None,
        "data_hash": snapshot.data_hash,
        "seed": parameters.seed,
        "parameters": _json(asdict(parameters)),
        "versions": "{}",
        "started_at": started_at,
        "author": author,
        "reason": reason,
    }


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
