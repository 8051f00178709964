"""Which tickets that production decided while a candidate was in shadow it left out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tiebreak.release.events import Event
from tiebreak.release.gate_columns import Sides, span
from tiebreak.release.gate_results import Coverage
from tiebreak.release.releases import Release
from tiebreak.release.states import Kind, State
from tiebreak.store.columns import Columns
from tiebreak.store.database import Database


@dataclass(frozen=True, slots=True)
class Times:
    """Since when the candidate is to score, and through when it has scored."""

    since: datetime | None
    through: datetime | None


async def read_times(
    db: Database, release: Release, events: list[Event], *, known_by: datetime
) -> Times:
    """The times of a release until a moment, from its events and its progress."""
    begun = [_begun(event) for event in events if event.kind is Kind.SHADOW_STARTED]
    through = await db.pool.fetchval(_THROUGH, release.release_id)
    return Times(min(begun, default=None), None if through is None else min(through, known_by))


def cover(
    release: Release, sides: Sides, columns: Columns, times: Times, events: list[Event]
) -> Coverage:
    """How whole the shadow of a release is; `columns` are the tickets that have both."""
    starts = [event for event in events if event.kind is Kind.SHADOW_STARTED]
    share = float(starts[-1].detail.get("share", 1.0)) if starts else 1.0
    quarantine = None
    if release.state is State.QUARANTINED:
        told = next(e.detail for e in reversed(events) if e.kind is Kind.QUARANTINED)
        quarantine = str(told.get("message", told.get("cause", "no reason is told.")))
    unscored = None
    if share == 1.0 and len(columns) and times.since is not None and times.through is not None:
        first, _ = span(columns)
        unscored = sides.unscored(min(times.since, first), times.through)
    return Coverage(times.since, times.through, unscored, share, quarantine)


def _begun(event: Event) -> datetime:
    since = event.detail.get("since")
    return event.at if since is None else datetime.fromisoformat(since)


_THROUGH = "SELECT through FROM shadow_progress WHERE release_id = $1"
