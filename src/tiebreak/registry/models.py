"""The stored models: what each is, who made it, where it is in use, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import select

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import open_bundle
from tiebreak.bundles.signing import BundleKeys, signed_by
from tiebreak.core.model import MANIFEST
from tiebreak.errors import TiebreakError
from tiebreak.registry.canaries import Canary, newest
from tiebreak.registry.records import Kind, ReleaseRecord, current
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.database import Database

FIGURES = ("auc", "pr_auc", "log_loss", "brier")
IMPORTED = "model.imported"
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One stored bundle; `problem` says why it does not load, and then nothing else is known."""

    digest: str
    workflow: str | None
    family: str | None
    trees: int | None
    metrics: Mapping[str, float | None]
    origin: str | None  # trained | legacy joblib
    made_at: datetime | None
    made_by: str | None
    uses: tuple[str, ...]
    key_id: str | None
    algorithm: str | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a model came from and what names it: data → run → bundle → policies → releases."""

    data_hash: str | None
    run_id: str | None
    reason: str | None
    policies: tuple[str, ...]
    releases: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A stored model with its manifest and lineage; the manifest is empty where it won't load."""

    model: StoredModel
    manifest: Manifest
    lineage: Lineage


@dataclass(frozen=True, slots=True)
class _Made:
    at: datetime
    by: str
    reason: str | None
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Reads the models of an installation."""

    db: Database
    artifacts: ArtifactStore
    keys: BundleKeys
    keyring: Keyring

    async def list(self) -> list[StoredModel]:
        """All stored models, newest first; those that do not load say why."""
        made, uses = await self._made(), await self._uses()
        found = [
            (await self._read(digest, made, uses))[0] for digest in self.artifacts.list_bundles()
        ]
        return sorted(found, key=_age)

    async def get(self, digest: str) -> ModelFile:
        """One model by its digest. Raises `BundleMissing`."""
        made = await self._made()
        model, manifest = await self._read(digest, made, await self._uses())
        run = made.get(digest)
        policies, releases = tables.policies.c, tables.release_records.c
        columns = (
            *("workflow", "seq", "kind", "policy_hash"),
            *("author", "approver", "reason", "created_at"),
        )
        async with self.db.read() as conn:
            hashes = select(policies.policy_hash).where(policies.bundle_digest == digest)
            named = (await conn.execute(hashes.order_by(policies.created_at))).scalars().all()
            query = select(*(releases[name] for name in columns))
            query = query.where(releases.bundle_digest == digest).order_by(releases.created_at)
            records = (await conn.execute(query)).mappings().all()
        lineage = Lineage(
            data_hash=manifest.get("data_hash"),
            run_id=run.run_id if run else None,
            reason=run.reason if run else None,
            policies=tuple(named),
            releases=tuple(
                {name: row[name] for name in columns} | {"kind": row["kind"] or Kind.INSTALL}
                for row in records
            ),
        )
        return ModelFile(model, manifest, lineage)

    async def _read(
        self, digest: str, made: Mapping[str, _Made], uses: Mapping[str, list[str]]
    ) -> tuple[StoredModel, Manifest]:
        data = await asyncio.to_thread(self.artifacts.read_bundle, digest)
        manifest: Manifest = {}
        problem = None
        try:
            parts = await asyncio.to_thread(open_bundle, data, self.keys, expect_digest=digest)
            manifest = orjson.loads(parts[MANIFEST])
        except (TiebreakError, KeyError, ValueError) as error:
            problem = str(error)
        run = made.get(digest)
        metrics = _section(manifest, "metrics")
        key_id, algorithm = _signer(data)
        origin = manifest.get("origin", {}).get("kind", "trained") if manifest else None
        return StoredModel(
            digest=digest,
            workflow=manifest.get("workflow"),
            family=manifest.get("family"),
            trees=manifest.get("trees"),
            metrics={name: metrics.get(name) for name in FIGURES},
            origin=origin,
            made_at=run.at if run else None,
            made_by=run.by if run else None,
            uses=tuple(uses.get(digest, ())),
            key_id=key_id,
            algorithm=algorithm,
            problem=problem,
        ), manifest

    async def _made(self) -> dict[str, _Made]:
        """When, by whom and why each model was trained or imported; the latest time."""
        runs, audit = tables.ml_training_runs.c, tables.system_audit.c
        trained = select(
            runs.bundle_digest, runs.finished_at, runs.author, runs.reason, runs.run_id
        ).where(runs.bundle_digest.is_not(None))
        imported = select(audit.subject, audit.at, audit.actor, audit.detail)
        imported = imported.where(audit.action == IMPORTED).order_by(audit.at)
        found: dict[str, _Made] = {}
        async with self.db.read() as conn:
            for subject, at, by, detail in await conn.execute(imported):
                told: dict[str, Any] = orjson.loads(detail)
                found[subject.partition("/")[2]] = _Made(at, by, told.get("reason"))
            for digest, at, by, reason, run_id in await conn.execute(
                trained.order_by(runs.finished_at)
            ):
                found[digest] = _Made(at, by, reason, str(run_id))
        return found

    async def _uses(self) -> dict[str, list[str]]:
        """For each digest where it is in use: `locate: production`."""
        found: dict[str, list[str]] = {}
        shares = await newest(self.db, self.keyring)
        for workflow, release in sorted((await current(self.db, self.keyring)).items()):
            if not isinstance(release, ReleaseRecord):
                continue
            if release.bundle_digest:
                found.setdefault(release.bundle_digest, []).append(f"{workflow}: production")
            share = shares.get(workflow)
            if (
                isinstance(share, Canary)
                and share.decides_beside(release.seq)
                and share.bundle_digest
            ):
                found.setdefault(share.bundle_digest, []).append(f"{workflow}: canary")
        versions = tables.workflow_versions.c.workflow
        async with self.db.read() as conn:
            workflows = (await conn.execute(select(versions).distinct())).scalars().all()
        for workflow in sorted(workflows):
            candidate = self.artifacts.read_alias(workflow, "risk_model_candidate")
            if candidate is not None:
                found.setdefault(candidate, []).append(f"{workflow}: candidate")
        return found


def difference(a: Manifest, b: Manifest) -> dict[str, Any]:
    """What differs from one manifest to the other: features, parameters, figures, data."""
    old, new = ({f["name"]: f for f in each["features"]} for each in (a, b))
    old_metrics, new_metrics = _section(a, "metrics"), _section(b, "metrics")
    return {
        "features": {
            "added": sorted(new.keys() - old.keys()),
            "removed": sorted(old.keys() - new.keys()),
            "changed": sorted(n for n in old.keys() & new.keys() if old[n] != new[n]),
        },
        "parameters": _changes(_section(a, "parameters"), _section(b, "parameters")),
        "metrics": {name: [old_metrics.get(name), new_metrics.get(name)] for name in FIGURES},
        "data": _changes(
            {"data_hash": a.get("data_hash"), **_section(a, "rows")},
            {"data_hash": b.get("data_hash"), **_section(b, "rows")},
        ),
        "model": _changes(*({k: m.get(k) for k in _FACTS} for m in (a, b))),
        "versions": _changes(_section(a, "versions"), _section(b, "versions")),
    }


_FACTS = ("workflow", "workflow_version", "family", "trees", "label", "fingerprint")


def _section(manifest: Manifest, name: str) -> dict[str, Any]:
    return manifest.get(name) or {}


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = sorted(a.keys() | b.keys())
    return {name: [a.get(name), b.get(name)] for name in names if a.get(name) != b.get(name)}


def listed(model: StoredModel) -> dict[str, Any]:
    """A stored model as plain data."""
    return {**asdict(model), "metrics": dict(model.metrics), "uses": list(model.uses)}


def _signer(data: bytes) -> tuple[str | None, str | None]:
    try:
        return signed_by(data)
    except TiebreakError:
        return None, None


def _age(model: StoredModel) -> tuple[float, str]:
    return (-model.made_at.timestamp() if model.made_at else 0.0, model.digest)
