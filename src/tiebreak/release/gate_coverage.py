"""Which tickets that production decided while a candidate was in shadow it left out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate

import numpy as np
import polars as pl

from tiebreak.release.events import Event
from tiebreak.release.gate_columns import Pair, Sides, keys_of, microseconds, numbered, span
from tiebreak.release.gate_results import Coverage
from tiebreak.release.releases import Release
from tiebreak.release.states import Kind, State
from tiebreak.store.columns import Columns, texts
from tiebreak.store.database import Database
from tiebreak.store.keyed import shadow_hash, share_end


@dataclass(frozen=True, slots=True)
class Times:
    """From when on the candidate is to score which share, and through when it has scored."""

    shares: Sequence[tuple[datetime, float]]  # one for each time its shadow was started
    through: datetime | None

    @property
    def since(self) -> datetime | None:
        """The earliest moment from which it is to score."""
        return min((since for since, _ in self.shares), default=None)


async def read_times(
    db: Database, release: Release, events: list[Event], *, known_by: datetime
) -> Times:
    """The times of a release until a moment, from its events and its progress."""
    starts = [event for event in events if event.kind is Kind.SHADOW_STARTED]
    shares = [(_begun(event), float(event.detail.get("share", 1.0))) for event in starts]
    through = await db.pool.fetchval(_THROUGH, release.release_id)
    return Times(shares, None if through is None else min(through, known_by))


def cover(release: Release, events: list[Event], times: Times, unscored: int | None) -> Coverage:
    """How whole the shadow of a release is."""
    told = [
        str(event.detail.get("message", event.detail.get("cause", "no reason is told.")))
        for event in events
        if event.kind is Kind.QUARANTINED
    ]
    is_quarantined = release.state is State.QUARANTINED
    return Coverage(
        times.since,
        times.through,
        unscored,
        times.shares[-1][1] if times.shares else 1.0,
        told[-1] if is_quarantined else None,
        tuple(told[:-1] if is_quarantined else told),
    )


async def count_unscored(
    db: Database, key: bytes, pair: Pair, sides: Sides, columns: Columns, times: Times
) -> int | None:
    """Tickets that production decided, that the candidate's share selects, and it did not score.

    Of shares that were asked for, the largest counts, from when on it was asked for. `columns` are
    the tickets that have both; None where there are none.
    """
    if not len(columns) or times.since is None or times.through is None:
        return None
    first, _ = span(columns)
    since = min(times.since, first)
    left = await asyncio.to_thread(sides.unscored, since, times.through)
    if not len(left) or pair.production is None:
        return 0
    shares = [(since, times.shares[0][1]), *times.shares]
    if all(share == 1.0 for _, share in shares):
        return len(np.unique(keys_of(left)))
    selected = _Selected(key, pair.workflow, pl.Series(keys_of(left)), _ends(shares))
    arguments = (pair.workflow, pair.production, since, times.through)
    found = await texts(db, _DECIDED, *arguments, schema=_DECIDED_TYPES, keep=selected.of)
    return found.unique().height


@dataclass(frozen=True)
class _Selected:
    """Of revisions, those that shares of a shadow select."""

    key: bytes
    workflow: str
    revisions: pl.Series
    ends: tuple[list[int], list[int]]  # from these microseconds on, hashes below these

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of `_DECIDED` that are selected."""
        given = (rows["ticket"].to_numpy(), rows["revision"].to_numpy())
        found = rows.filter(pl.Series(numbered(*given)).is_in(self.revisions.implode()))
        moments, ends = self.ends
        at = found["at"].to_numpy()
        places: list[int] = (np.searchsorted(moments, at, side="right") - 1).tolist()
        ids: list[str] = found["ticket_id"].to_list()
        is_selected = [
            shadow_hash(self.key, self.workflow, ticket_id) < ends[place]
            for place, ticket_id in zip(places, ids, strict=True)
        ]
        return found.filter(pl.Series(is_selected, dtype=pl.Boolean)).select("ticket", "revision")


def _ends(shares: Sequence[tuple[datetime, float]]) -> tuple[list[int], list[int]]:
    """Moments in rising order, and below which hash a ticket is selected from each on."""
    ordered = sorted((microseconds(moment), share_end(share)) for moment, share in shares)
    return [at for at, _ in ordered], list(accumulate((end for _, end in ordered), max))


def _begun(event: Event) -> datetime:
    since = event.detail.get("since")
    return event.at if since is None else datetime.fromisoformat(since)


_DECIDED_TYPES = {
    "at": pl.Int64,
    "ticket": pl.Int64,
    "revision": pl.Int64,
    "ticket_id": pl.String,
}
_DECIDED = """
    SELECT (extract(epoch FROM as_of) * 1000000)::int8, hashtextextended(ticket_id, 0), revision,
        ticket_id
    FROM decisions
    WHERE workflow = $1 AND policy_hash = $2 AND as_of BETWEEN $3 AND $4 AND fired IS NOT NULL
"""
_THROUGH = "SELECT through FROM shadow_progress WHERE release_id = $1"
