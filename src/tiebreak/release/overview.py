"""The overview: what is in production, what is on its way there, what awaits a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

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
    )
