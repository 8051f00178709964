"""Simulated tickets and events as tables with the columns of the `locate` workflow."""

from __future__ import annotations

import numpy as np
import polars as pl

from tiebreak.core.bands import Band
from tiebreak.ingest.simulation import trades
from tiebreak.ingest.simulation.outcomes import NEVER, Ends
from tiebreak.ingest.simulation.tickets import (
    EMERGENCY,
    RENEWAL,
    SECOND_NOTICE,
    SHORT_NOTICE,
    TYPES,
    Draft,
)
from tiebreak.ingest.simulation.world import FACILITIES, HOUR_US, Flags, Ints, World

MARK = "[simulated]"
CHANNELS = ("web", "phone", "mobile", "api")
EVENT_SCHEMA: dict[str, pl.DataType] = {
    "ticket_id": pl.String(),
    "kind": pl.String(),
    "known_at": pl.Datetime("us", "UTC"),
    "response_late": pl.Boolean(),
    "response_hours": pl.Float64(),
    "damage": pl.Boolean(),
    "damage_cost_usd": pl.Float64(),
    "reviewer": pl.String(),
    "band": pl.String(),
    "note": pl.String(),
}


def ticket_table(
    seed: np.random.SeedSequence, label: str, world: World, draft: Draft, ends: Ends
) -> pl.DataFrame:
    """One row a ticket, in time order; ids begin with `label`, remarks with "[simulated]"."""
    rng = np.random.default_rng(seed)
    count = draft.opened_us.size
    ids = ticket_ids(label, count)
    prior = np.maximum(draft.prior, 0)
    has_prior = draft.prior >= 0
    member_lists, member_counts = _members(world, draft)
    expires = _moments(draft.expires_us)
    facilities = _tags(draft.facilities, FACILITIES)
    lead_owner = world.owner[draft.city, draft.lead]
    return pl.DataFrame(
        {
            "ticket_id": ids,
            "opened_at": _moments(draft.opened_us),
            "ticket_type": _names(TYPES, draft.kind),
            "priority": _names(("routine", "high", "urgent"), _priority(rng, draft)),
            "channel": rng.choice(CHANNELS, count, p=[0.55, 0.22, 0.15, 0.08]),
            "work_type": _names(trades.TRADE_NAMES, draft.trade),
            "method": _names(trades.METHODS, draft.method),
            "depth_ft": pl.Series(np.round(draft.depth_ft, 1)).fill_nan(None),
            "is_boring": draft.is_boring,
            "uses_explosives": draft.explosives,
            "is_white_lined": draft.white_lined,
            "is_private_property": rng.random(count) < 0.38,
            "polygon_sqft": np.round(draft.polygon_sqft, 0),
            "overlap_ft": np.round(draft.overlap_ft, 0),
            "facility_types": facilities,
            "members": member_lists,
            "member_count": member_counts,
            "lead_member": _names(world.owner_names, lead_owner),
            "excavator": [f"Excavator {number:04d}" for number in (draft.excavator + 1).tolist()],
            "caller": [f"Caller {number:05d}" for number in rng.integers(1, 99_999, count)],
            "crew_size": rng.poisson(2.2, count) + 1,
            "duration_days": rng.geometric(0.22, count),
            "city": [f"City {number:02d}" for number in (draft.city + 1).tolist()],
            "street": [f"Street {number:03d}" for number in (draft.street + 1).tolist()],
            "work_begins_at": _moments(draft.work_begins_us),
            "due_at": _moments(draft.due_us),
            "legal_on": _moments(draft.due_us).dt.date(),
            "expires_on": expires.dt.date(),
            "prior_ticket": pl.Series(ids)[prior].set(pl.Series(~has_prior), None),
            "prior_expires_on": expires.dt.date()[prior].set(pl.Series(~has_prior), None),
            "prior_response": _prior_response(draft, ends, prior, has_prior),
            "remarks": _remarks(rng, draft),
        }
    )


def event_table(label: str, draft: Draft, ends: Ends) -> pl.DataFrame:
    """What became known about the tickets, one row an event, in the order of `known_at`."""
    ids = pl.Series(ticket_ids(label, draft.opened_us.size))
    hours = np.round((ends.responded_us - draft.opened_us) / HOUR_US, 2)
    damaged = np.flatnonzero(ends.damage)
    acted = np.flatnonzero(ends.acted_us != NEVER)
    reviewed = np.flatnonzero(ends.reviewed_us != NEVER)
    labels = tuple(band.label for band in Band)
    parts = (
        _events(ids, "closed", ends.responded_us, {"response_hours": pl.Series(hours)}),
        _events(ids, "outcome", ends.late_known_us, {"response_late": pl.Series(ends.late)}),
        _events(
            ids[damaged],
            "outcome",
            ends.damage_known_us[damaged],
            {
                "damage": pl.Series(ends.damage[damaged]),
                "damage_cost_usd": pl.Series(ends.damage_cost_usd[damaged]),
            },
        ),
        _events(ids[acted], "acted", ends.acted_us[acted], {}),
        _events(
            ids[reviewed],
            "feedback",
            ends.reviewed_us[reviewed],
            {
                "reviewer": _names(
                    tuple(f"Reviewer {n + 1:02d}" for n in range(99)), ends.reviewer[reviewed]
                ),
                "band": _names(labels, ends.review_band[reviewed]),
                "note": pl.Series([MARK] * reviewed.size),
            },
        ),
    )
    return pl.concat(parts).sort("known_at", "ticket_id", "kind")


def ticket_ids(label: str, count: int) -> list[str]:
    """The ids of the tickets, in time order."""
    return [f"{label}-{number:07d}" for number in range(1, count + 1)]


def _events(
    ids: pl.Series, kind: str, known_us: Ints, columns: dict[str, pl.Series]
) -> pl.DataFrame:
    given = {"ticket_id": ids, "known_at": _moments(known_us), **columns}
    frame = pl.DataFrame(given).with_columns(kind=pl.lit(kind))
    return frame.select(
        pl.col(name).cast(type_) if name in frame.columns else pl.lit(None, type_).alias(name)
        for name, type_ in EVENT_SCHEMA.items()
    )


def _moments(microseconds: Ints) -> pl.Series:
    return pl.Series(microseconds).cast(pl.Datetime("us", "UTC"))


def _names(names: tuple[str, ...], codes: Ints) -> pl.Series:
    return pl.Series(names)[codes]


def _priority(rng: np.random.Generator, draft: Draft) -> Ints:
    """Urgent for emergencies, of which three in a hundred are mistyped as routine."""
    is_high = np.isin(draft.kind, (SHORT_NOTICE, SECOND_NOTICE)) | draft.explosives
    is_mistyped = rng.random(draft.kind.size) < 0.03
    urgent = np.where(is_mistyped, 0, 2)
    return np.where(draft.kind == EMERGENCY, urgent, is_high.astype(np.int64))


def _tags(present: Flags, names: tuple[str, ...]) -> list[list[str]]:
    mask = present @ (1 << np.arange(len(names)))
    known = {
        code: [name for bit, name in enumerate(names) if code >> bit & 1]
        for code in np.unique(mask).tolist()
    }
    return [known[code] for code in mask.tolist()]


def _members(world: World, draft: Draft) -> tuple[list[list[str]], Ints]:
    """The owners of all facilities in the dig area, and how many they are."""
    width = len(FACILITIES)
    mask = draft.facilities @ (1 << np.arange(width)) + (draft.city << width)
    known = {code: _members_of(world, code >> width, code) for code in np.unique(mask).tolist()}
    lists = [known[code] for code in mask.tolist()]
    return lists, np.array([len(members) for members in lists], dtype=np.int64)


def _members_of(world: World, city: int, mask: int) -> list[str]:
    here: list[int] = world.owner[city].tolist()
    names = {world.owner_names[owner] for bit, owner in enumerate(here) if mask >> bit & 1}
    return sorted(names)


def _prior_response(draft: Draft, ends: Ends, prior: Ints, has_prior: Flags) -> pl.Series:
    """How the ticket before was answered, as far as it was known when this one was opened."""
    is_known = ends.late_known_us[prior] <= draft.opened_us
    code = np.where(is_known, ends.late[prior].astype(np.int64), 2)
    names = _names(("on_time", "late", "unknown"), code)
    is_follow_up = has_prior & np.isin(draft.kind, (RENEWAL, SECOND_NOTICE))
    return names.set(pl.Series(~is_follow_up), None)


def _remarks(rng: np.random.Generator, draft: Draft) -> list[str]:
    special: tuple[tuple[str, ...], ...] = (
        ("",),
        trades.ACCESS_REMARKS,
        trades.CREW_REMARKS,
        trades.VAGUE_REMARKS,
    )
    remark: list[int] = draft.remark.tolist()
    count = len(remark)
    calm: list[int] = rng.integers(0, len(trades.CALM_REMARKS), count).tolist()
    which: list[int] = rng.integers(0, 12, count).tolist()
    return [
        f"{MARK} {trades.CALM_REMARKS[base]} {special[code][pick % len(special[code])]}".rstrip()
        for code, base, pick in zip(remark, calm, which, strict=True)
    ]
