"""The overview: what is in production, what is on its way there, what awaits a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from tiebreak.errors import IntegrityFailure, Problem
from tiebreak.registry import canaries, records
from tiebreak.registry.canaries import Canary, ForgedCanary
from tiebreak.registry.records import ForgedRelease, ReleaseRecord
from tiebreak.release.demotion import Demotion, unsigned
from tiebreak.release.releases import Release, open_releases
from tiebreak.settings import Keyring
from tiebreak.store.database import Database


@dataclass(frozen=True, slots=True)
class Overview:
    """Where all releases stand at a moment."""

    at: datetime
    production: Mapping[str, ReleaseRecord | ForgedRelease]  # by workflow
    canaries: Mapping[str, Canary | ForgedCanary]  # by workflow; also those that decide nothing
    candidates: Sequence[Release]  # the open ones, newest first
    demotions: Sequence[Demotion]  # not countersigned, oldest first
    gated: frozenset[str]  # policies that were promoted, and so passed their gates

    @property
    def overdue(self) -> list[Demotion]:
        """The demotions whose second signature is late."""
        return [demotion for demotion in self.demotions if demotion.due_at < self.at]

    def share(self, release: Release) -> int:
        """The percentage of its workflow's tickets that the release decides now."""
        canary = self.canaries.get(release.workflow)
        if not isinstance(canary, Canary) or canary.release_id != release.release_id:
            return 0
        return canary.percent if self._is_base(canary) else 0

    def is_current(self, release: Release) -> bool:
        """Whether what was found out about the release is about the policy in production now."""
        record = self.production.get(release.workflow)
        return isinstance(record, ReleaseRecord) and record.seq == release.base_seq

    def as_data(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "production": [self._record(*each) for each in sorted(self.production.items())],
            "candidates": [
                {
                    **asdict(release),
                    "percent": self.share(release),
                    "is_current": self.is_current(release),
                }
                for release in self.candidates
            ],
            "demotions": [
                {**asdict(demotion), "is_overdue": demotion in self.overdue}
                for demotion in self.demotions
            ],
            "problems": [
                Problem(
                    f"workflows.{workflow}.{what}", error.code, error.message, error.hint
                ).as_dict()
                for what, found in (("release", self.production), ("canary", self.canaries))
                for workflow, error in sorted(found.items())
                if isinstance(error, IntegrityFailure)
            ],
        }

    def _record(self, workflow: str, record: ReleaseRecord | ForgedRelease) -> dict[str, Any]:
        if isinstance(record, ForgedRelease):
            names = ("seq", "kind", "policy", "model", "author", "approver", "since", "reason")
            nothing = dict.fromkeys((*names, "is_gated"))
            return {"workflow": workflow, "state": record.code, **nothing}
        return {
            "workflow": workflow,
            "state": "production",
            "seq": record.seq,
            "kind": record.kind,
            "policy": record.policy_hash,
            "model": record.bundle_digest,
            "author": record.author,
            "approver": record.approver,
            "since": record.created_at,
            "reason": record.reason,
            "is_gated": record.policy_hash in self.gated,
        }

    def _is_base(self, canary: Canary) -> bool:
        record = self.production.get(canary.workflow)
        return isinstance(record, ReleaseRecord) and record.seq == canary.production_seq


async def overview(db: Database, keyring: Keyring) -> Overview:
    """Where all releases stand now."""
    return Overview(
        at=datetime.now(UTC),
        production=await records.current(db, keyring),
        canaries=await canaries.newest(db, keyring),
        candidates=await open_releases(db),
        demotions=await unsigned(db),
        gated=await _gated(db),
    )


async def _gated(db: Database) -> frozenset[str]:
    async with db.connection() as conn:
        return frozenset(row["policy_hash"] for row in await conn.fetch(_PROMOTED))


_PROMOTED = "SELECT DISTINCT policy_hash FROM release_records WHERE kind = 'promote'"
