"""Putting policies into production the way everybody does: installed first, then as releases."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tiebreak.audit.lanes import Lane
from tiebreak.backtest import finished
from tiebreak.backtest.evidence import Backtest, Evidence
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.policy import PolicyParts
from tiebreak.registry import canaries, records
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.registry.records import ReleaseRecord
from tiebreak.release import evaluations
from tiebreak.release.approvals import approve
from tiebreak.release.events import happen
from tiebreak.release.promotion import promote
from tiebreak.release.releases import Office, Release, get, propose
from tiebreak.release.states import Kind, Stage
from tiebreak.settings import Keyring
from tiebreak.store.database import Database


def office_of(db: Database, lane: Lane, keyring: Keyring, artifacts: Path | None = None) -> Office:
    """An office, by default without models."""
    store = ArtifactStore(Folder(artifacts or Path(tempfile.gettempdir()) / "no-artifacts"))
    keys = BundleKeys(keyring.bundle_keys, keyring.bundle_signing_key_id)
    return Office(db, lane, keyring, PolicyLibrary(db, store, keys))


async def backtest_of(
    office: Office, parts: PolicyParts, *, is_noted: bool = True, **more: Any
) -> Backtest:
    """Evidence as a backtest of this policy against production would leave it."""
    now = (await records.current(office.db, office.keyring)).get(parts.workflow)
    assert not isinstance(now, records.ForgedRelease)
    evidence = {
        "workflow": parts.workflow,
        "policy_hash": parts.hash,
        "policy": asdict(parts),
        "baseline": {"production": None if now is None else now.policy_hash},
        "window": {"since": "2025-01-01T00:00:00+00:00", "until": "2026-01-01T00:00:00+00:00"},
        "figures": {"tickets": 0},
        **more,
    }
    with tempfile.TemporaryDirectory() as folder:
        made = Evidence(Path(folder)).put(evidence, {"finished_at": "2026-01-01"})
    if is_noted:
        async with office.lane.unit() as unit:
            finished.note(unit, made, person="ann")
    return made


async def proposed(office: Office, parts: PolicyParts, *, author: str = "ann") -> Release:
    """A release of this policy."""
    backtest = await backtest_of(office, parts)
    recipe = await office.library.recipe(parts)
    return await propose(office, recipe, backtest, author=author, reason="test")


async def tell(
    office: Office,
    release: Release,
    *kinds: Kind,
    actor: str = "ann",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Let these things happen to a release, as shadow and canary would."""
    for kind in kinds:
        async with office.lane.unit() as unit:
            await records.lock(unit, release.workflow)
            told = {"reason": "test", **(detail or {})}
            await happen(unit, release.subject, kind, actor=actor, detail=told)


async def gated(
    office: Office, release: Release, stage: Stage = Stage.PROMOTION, *, is_passed: bool = True
) -> evaluations.Evaluation:
    """What the gates say of a release."""
    return await evaluations.record(
        office, release, stage, is_passed=is_passed, results={"all": is_passed}, actor="gates"
    )


async def approved(
    office: Office, parts: PolicyParts, *, author: str = "ann", approver: str = "bob"
) -> Release:
    """A release that went through shadow and its gates, and that somebody else approved."""
    release = await proposed(office, parts, author=author)
    await tell(office, release, Kind.SHADOW_STARTED)
    await gated(office, release)
    await approve(office, release.release_id, Stage.PROMOTION, approver=approver)
    return await get(office.db, release.release_id)


async def share(
    office: Office, release: Release, percent: int, kind: Kind, *, author: str = "ann"
) -> canaries.Canary:
    """Let a release that was approved for it decide a share of the tickets."""
    async with office.lane.unit() as unit:
        seq = await records.lock(unit, release.workflow)
        parts = await office.library.parts(release.policy_hash)
        canary = await canaries.append(
            unit,
            office.keyring,
            canaries.Share(
                release.workflow,
                release.release_id,
                release.policy_hash,
                parts.bundle_digest,
                seq,
                percent,
            ),
            author=author,
        )
        await happen(unit, release.subject, kind, actor=author, detail={"percent": percent})
    return canary


async def put(
    db: Database,
    lane: Lane,
    keyring: Keyring,
    parts: PolicyParts,
    *,
    author: str = "ann",
    approver: str = "bob",
    artifacts: Path | None = None,
) -> ReleaseRecord:
    """Put a policy whose versions are stored into production, the first one or a later one."""
    now = (await records.current(db, keyring)).get(parts.workflow)
    if now is None:
        return await records.install(
            lane, keyring, parts, author=author, approver=approver, reason="test"
        )
    office = office_of(db, lane, keyring, artifacts)
    release = await approved(office, parts, author=author, approver=approver)
    return await promote(office, release.release_id, author=author, reason="test")
