"""What a candidate scored beside what production decided, as columns.

Scores and decisions are read beside each other, as wide as they are needed, and paired here. A
ticket is known by a hash of its id.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.store.columns import Columns, fixed, moments
from tiebreak.store.database import Database

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
DAY_MICROSECONDS = 86_400_000_000
REVIEW = 2
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPREAD = np.int64(-7046029254386353131)  # 2**64 / golden ratio: neighbours lie far apart
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_OF_A_SCORE = {
    "as_of": "i8",
    "ticket": "i8",  # a hash of its id, which is as wide for every ticket
    "revision": "i4",
    "score": "f8",  # NaN where the candidate has none
    "band": "i2",
    "floor": "i2",
    "route": "i2",
    "seconds": "f8",
}
_OF_A_DECISION = {
    "ordinal": "i4",
    "score_before": "f8",
    "points_before": "f8",
    "band_before": "i2",
    "floor_before": "i2",
    "route_before": "i2",
}
_SCORE_TYPES = {**_OF_A_SCORE, "rules_band": "i2"}
_DECISION_TYPES = {
    "as_of": "i8",
    "ticket": "i8",
    "revision": "i4",
    **_OF_A_DECISION,
    "is_whole": "i2",  # 0 once it is erased
}
_KEY_TYPES = {"ticket": "i8", "revision": "i4"}
_TYPES = {**_OF_A_SCORE, **_OF_A_DECISION, "is_live": "i2"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose scores are compared with whose decisions; `production` None: the candidate's rules."""

    workflow: str
    policy_hash: str
    production: str | None


@dataclass(frozen=True, eq=False)
class Scored:
    """Tickets by their newest scored revision; arrays of (n,), in rising order of `ticket`."""

    columns: Columns
    truth: NDArray[np.int8]  # 1: a bad end, 0: a good one, -1: not known or not mature

    @property
    def count(self) -> int:
        """How many tickets there are."""
        return len(self.columns)

    @property
    def is_labelled(self) -> Bools:
        """Which tickets have a mature label."""
        return self.truth >= 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]


@dataclass(frozen=True, eq=False)
class Sides:
    """All that a candidate scored, and what production decided in that time; not yet paired."""

    scores: Columns
    decisions: Columns | None  # None: there is no production
    imported: Columns  # keys of what did not arrive live

    def paired(self) -> Columns:
        """Tickets that have both, by the newest revision and the newest decision on it."""
        scores, decisions = self.scores, self.decisions
        if decisions is None:
            decisions = _by_rules_alone(scores)
            mine = theirs = np.arange(len(scores))
        else:
            mine, theirs = _matches(scores, decisions)
        ticket, revision = scores["ticket"][mine], scores["revision"][mine]
        last = _newest(ticket, revision, decisions["ordinal"][theirs])
        columns = np.empty(len(last), dtype=list(_TYPES.items()))
        for names, side, places in (
            (_OF_A_SCORE, scores, mine[last]),
            (_OF_A_DECISION, decisions, theirs[last]),
        ):
            for name in names:
                columns[name] = side[name][places]
        columns["is_live"] = ~_is_among(keys_of(columns), keys_of(self.imported))
        return columns

    def live(self) -> Columns:
        """What the candidate scored of tickets that arrived live, decided by whomever."""
        return self.scores[~_is_among(keys_of(self.scores), keys_of(self.imported))]

    def unscored(self, since: datetime, through: datetime) -> Columns:
        """What production decided between two moments and the candidate did not score."""
        if self.decisions is None:
            return self.scores[:0]
        at = moments(self.decisions["as_of"])
        is_asked = (at >= microseconds(since)) & (at <= microseconds(through))
        asked = self.decisions[is_asked & (self.decisions["is_whole"] == 1)]
        return asked[~_is_among(keys_of(asked), keys_of(self.scores))]


async def read_sides(
    db: Database,
    pair: Pair,
    since: datetime | None,
    through: datetime | None,
    *,
    known_by: datetime,
) -> Sides:
    """What the candidate scored, and production's decisions at least from `since` `through`.

    Tickets that came in after `known_by` do not count.
    """
    async with db.connection() as conn:
        found = await conn.fetchrow(_RANGE, pair.workflow, pair.policy_hash, known_by)
    assert found is not None
    if found["first"] is None:
        tables = (_SCORE_TYPES, _DECISION_TYPES, _KEY_TYPES)
        return Sides(*(np.empty(0, dtype=list(types.items())) for types in tables))
    first, last = found["first"], found["last"]
    begin, end = min(first, since or first), min(known_by, max(last, through or last))
    scores, (decisions, imported) = await asyncio.gather(
        fixed(db, _SCORES, pair.workflow, pair.policy_hash, known_by, types=_SCORE_TYPES),
        _others(db, pair, begin, end),
    )
    return Sides(scores, decisions, imported)


async def _others(
    db: Database, pair: Pair, begin: datetime, end: datetime
) -> tuple[Columns | None, Columns]:
    imported = await fixed(db, _IMPORTED, pair.workflow, begin, end, types=_KEY_TYPES)
    if pair.production is None:
        return None, imported
    arguments = (pair.workflow, pair.production, begin, end)
    return await fixed(db, _DECISIONS, *arguments, types=_DECISION_TYPES), imported


def sampled(columns: Columns, seed: int, size: int) -> Columns:
    """So many of the revisions at most, by a hash with the seed."""
    order = np.argsort(_mixed(keys_of(columns), seed), kind="stable")
    return columns[order[:size]]


def span(columns: Columns) -> tuple[datetime, datetime]:
    """The first and the last `as_of`, of at least one."""
    at = moments(columns["as_of"])
    first, last = (EPOCH + timedelta(microseconds=int(each)) for each in (at.min(), at.max()))
    return first, last


def _by_rules_alone(scores: Columns) -> Columns:
    """What the candidate's rules say, as if production had decided it."""
    decisions = np.zeros(len(scores), dtype=list(_OF_A_DECISION.items()))
    decisions["ordinal"] = 1
    decisions["score_before"] = np.nan
    decisions["points_before"] = decisions["band_before"] = scores["rules_band"]
    return decisions


def _matches(scores: Columns, decisions: Columns) -> tuple[Ints, Ints]:
    """Places of a score and of a decision on the same revision, for each such pair."""
    sides = [
        pl.DataFrame({"key": keys_of(side)}).with_row_index(name)
        for name, side in (("score", scores), ("decision", decisions))
    ]
    pairs = sides[0].join(sides[1], on="key")
    mine, theirs = (pairs[name].to_numpy().astype(np.int64) for name in ("score", "decision"))
    is_same = scores["as_of"][mine] == decisions["as_of"][theirs]
    return mine[is_same], theirs[is_same]


def _newest(tickets: Ints, revisions: NDArray[np.int32], ordinals: NDArray[np.int32]) -> Ints:
    """The place of each ticket's newest revision and newest decision on that."""
    ordered = (
        pl.DataFrame({"ticket": tickets, "revision": revisions, "ordinal": ordinals})
        .with_row_index("place")
        .sort("ticket", "revision", "ordinal")
    )
    ticket = ordered["ticket"].to_numpy()
    is_last = np.append(ticket[1:] != ticket[:-1], True)[: len(ticket)]
    return ordered["place"].to_numpy()[is_last].astype(np.int64)


def keys_of(columns: Columns) -> Ints:
    """A number for each revision of each ticket, as unlikely to meet another as their hashes."""
    return numbered(columns["ticket"], columns["revision"])


def numbered(tickets: Ints, revisions: NDArray[Any]) -> Ints:
    """The same of hashes of tickets, and revisions."""
    return tickets + revisions * _SPREAD


def _mixed(keys: Ints, seed: int) -> NDArray[np.uint64]:
    """Another number for each key and seed, as if drawn (the finalizer of SplitMix64)."""
    mixed = keys.view(np.uint64) ^ np.uint64(seed)
    for shift, factor in _MIX:
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _is_among(keys: Ints, others: Ints) -> Bools:
    return pl.Series(keys).is_in(pl.Series(others).implode()).to_numpy()


def microseconds(moment: datetime) -> int:
    """Since 1970, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


_RANGE = """
    SELECT min(as_of) AS first, max(as_of) AS last FROM ml_shadow_scores
    WHERE workflow = $1 AND policy_hash = $2 AND as_of <= $3
"""
_ROUTE = "CASE route WHEN 'review' THEN 2 WHEN 'tiebreak' THEN 1 ELSE 0 END::int2"
_SCORES = f"""
    SELECT as_of, hashtextextended(ticket_id, 0), revision, coalesce(score, 'NaN'), band,
        coalesce(hard_floor, 0::int2), {_ROUTE}, seconds, rules_band
    FROM ml_shadow_scores WHERE workflow = $1 AND policy_hash = $2 AND as_of <= $3
"""  # noqa: S608
_DECISIONS = f"""
    SELECT as_of, hashtextextended(ticket_id, 0), revision, ordinal, coalesce(score, 'NaN'),
        rules_points::float8, band, coalesce(hard_floor, 0::int2), {_ROUTE},
        (fired IS NOT NULL)::int::int2
    FROM decisions
    WHERE workflow = $1 AND policy_hash = $2 AND as_of BETWEEN $3 AND $4
"""  # noqa: S608
_IMPORTED = """
    SELECT hashtextextended(ticket_id, 0), revision FROM ticket_keys
    WHERE workflow = $1 AND origin = 'import' AND as_of BETWEEN $2 AND $3
"""
