"""What became of simulated tickets, and when each thing was known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiebreak.ingest.simulation.tickets import (
    BLASTING,
    DIRECTIONAL_BORE,
    EMERGENCY,
    HAND_DIG,
    RENEWAL,
    SECOND_NOTICE,
    SHORT_NOTICE,
    Draft,
)
from tiebreak.ingest.simulation.world import DAY_US, FACILITIES, HOUR_US, Flags, Floats, Ints, World

LATE_SHARE = 0.145
SIGNAL = 1.35  # how much of being late lies in what can be known beforehand
DAMAGE_SHARE = 0.003
REVIEWERS = 12
REVIEWED_SHARE = 0.04
NEVER = np.iinfo(np.int64).max

GAS, TELECOM, FIBER = (FACILITIES.index(name) for name in ("gas", "telecom", "fiber"))


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of tickets as columns; a time of NEVER stands for what did not happen."""

    late: Flags
    late_known_us: Ints
    responded_us: Ints
    damage: Flags
    damage_known_us: Ints
    damage_cost_usd: Floats
    acted_us: Ints
    reviewed_us: Ints
    reviewer: Ints
    review_band: Ints


def draw_outcomes(
    seed: np.random.SeedSequence, world: World, draft: Draft, drift_from_day: int
) -> Ends:
    """The ends of the tickets; docs/simulator.md states every term."""
    rng = np.random.default_rng(seed)
    count = draft.opened_us.size
    quarter = draft.day // 91
    planning = world.excavator_planning[draft.excavator, quarter]
    care = world.excavator_care[draft.excavator, quarter]
    owner = world.owner[draft.city, draft.lead]
    pressure = _pressure(rng, world, draft, owner, drift_from_day)

    late_score = _late_score(world, draft, owner, planning, pressure)
    damage_score = _damage_score(world, draft, care)
    acted = rng.random(count) < _logistic(1.1 * late_score + 0.5 * damage_score - 5.4)
    late_odds = late_score - 0.7 * acted
    damage_odds = damage_score - 1.0 * acted
    late_chance = _logistic(late_odds + _intercept(late_odds, LATE_SHARE))
    late = rng.random(count) < late_chance
    damage_odds = damage_odds + 0.8 * late
    damage_chance = _logistic(damage_odds + _intercept(damage_odds, DAMAGE_SHARE))
    damage = rng.random(count) < damage_chance

    responded = _responses(rng, draft, late)
    known = draft.due_us + (DAY_US * rng.uniform(1.0, 4.0, count)).astype(np.int64)
    dug = draft.work_begins_us + (DAY_US * rng.gamma(1.5, 2.0, count)).astype(np.int64)
    reported = dug + (DAY_US * rng.uniform(3.0, 24.0, count)).astype(np.int64)
    waited = (HOUR_US * rng.gamma(1.5, 2.0, count)).astype(np.int64)
    reviewed = rng.random(count) < REVIEWED_SHARE
    reviewer, band = _reviews(rng, 1 - (1 - late_chance) * (1 - damage_chance))
    return Ends(
        late=late,
        late_known_us=np.maximum(known, draft.opened_us + HOUR_US),
        responded_us=responded,
        damage=damage,
        damage_known_us=np.where(damage, reported, NEVER),
        damage_cost_usd=np.round(rng.lognormal(8.3, 1.0, count), 2),
        acted_us=np.where(acted, draft.opened_us + HOUR_US // 2 + waited, NEVER),
        reviewed_us=np.where(reviewed, draft.opened_us + HOUR_US // 4 + 2 * waited, NEVER),
        reviewer=reviewer,
        review_band=band,
    )


def _pressure(
    rng: np.random.Generator, world: World, draft: Draft, owner: Ints, drift_from_day: int
) -> Floats:
    """Days of work that wait at the leading owner when a ticket comes, one a ticket.

    Each owner clears tickets on business days, slowed by storms; what it cannot clear waits.
    """
    days, owners = world.calendar.days, len(world.owner_names)
    arrivals = np.zeros((days, owners))
    np.add.at(arrivals, (draft.day, owner), 1.0)
    season = np.maximum(_moving_mean(arrivals, 60), 0.5)
    dates = np.datetime64(world.calendar.first_day) + np.arange(days)
    works = world.calendar.is_business(dates)[:, None]
    calm = 1.0 / (1.0 + 0.5 * world.storm[:days].mean(axis=1))[:, None]
    spare = rng.uniform(1.04, 1.22, owners) * (7 / 5)
    worn = np.where(np.arange(days) >= drift_from_day, 0.93, 1.0)[:, None]
    capacity = season * spare * works * calm * worn
    waiting = np.zeros((days, owners))
    left = np.zeros(owners)
    for day in range(days):
        waiting[day] = left
        left = np.maximum(0.0, left + arrivals[day] - capacity[day])
    return (waiting / season)[draft.day, owner]


def _moving_mean(values: Floats, width: int) -> Floats:
    total = np.cumsum(np.vstack([np.zeros((1, values.shape[1])), values]), axis=0)
    rows: Ints = np.arange(values.shape[0], dtype=np.int64)
    first = np.maximum(rows - width // 2, 0)
    last = np.minimum(rows + width // 2, values.shape[0])
    return (total[last] - total[first]) / (last - first)[:, None]


def _late_score(
    world: World, draft: Draft, owner: Ints, planning: Floats, pressure: Floats
) -> Floats:
    owners = draft.facilities.sum(axis=1)
    big = np.log(draft.polygon_sqft / 1_200.0)
    fiber_bore = (draft.method == DIRECTIONAL_BORE) & draft.facilities[:, FIBER]
    friday = (draft.weekday == 5) & (draft.hour >= 13)
    return SIGNAL * (
        0.85 * world.owner_slowness[owner]
        + 0.60 * planning
        + 0.55 * np.log1p(pressure)
        + 0.45 * np.log1p(pressure) * (draft.polygon_sqft > 2_500)
        + world.city_difficulty[draft.city]
        + world.street_difficulty[draft.city, draft.street]
        + 0.22 * big
        + 0.16 * (owners - 3)
        + 0.55 * (~draft.white_lined & (draft.polygon_sqft > 2_000))
        + 0.65 * fiber_bore
        + 0.50 * (draft.facilities[:, TELECOM] & (draft.overlap_ft > 120))
        + 0.70 * (draft.remark == 1)
        + 0.35 * (draft.remark == 3)
        + 0.40 * friday
        + 0.75 * draft.storm * (draft.kind != EMERGENCY)
        - 0.60 * (draft.kind == EMERGENCY)
        + 0.70 * (draft.kind == SHORT_NOTICE)
        + 0.80 * (draft.kind == SECOND_NOTICE)
        + 0.25 * (draft.kind == RENEWAL)
    )


def _damage_score(world: World, draft: Draft, care: Floats) -> Floats:
    deep = np.nan_to_num(draft.depth_ft, nan=3.0)
    return (
        1.00 * care
        + 0.5 * world.city_difficulty[draft.city]
        + 0.90 * draft.is_boring
        + 0.80 * (draft.method == BLASTING)
        - 1.10 * (draft.method == HAND_DIG)
        + 0.70 * (draft.is_boring & draft.facilities[:, GAS])
        + 0.45 * (~draft.white_lined)
        + 0.30 * np.log1p(draft.overlap_ft / 30)
        + 0.50 * (draft.kind == EMERGENCY)
        + 0.70 * (draft.remark == 2)
        + 0.45 * np.isnan(draft.depth_ft)
        + 0.05 * np.minimum(deep, 12)
    )


def _logistic(odds: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-odds))


def _intercept(odds: Floats, share: float) -> float:
    """The constant with which the mean chance is `share`, by bisection."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if _logistic(odds + middle).mean() < share:
            low = middle
        else:
            high = middle
    return low


def _responses(rng: np.random.Generator, draft: Draft, late: Flags) -> Ints:
    """On time: somewhere before the due time, mostly in its last half. Late: hours to days on."""
    span = draft.due_us - draft.opened_us
    early = draft.opened_us + (span * rng.beta(3.0, 1.6, late.size)).astype(np.int64)
    delay = HOUR_US * (1.0 + rng.gamma(1.1, 22.0, late.size))
    return np.where(late, draft.due_us + delay.astype(np.int64), early)


def _reviews(rng: np.random.Generator, chance: Floats) -> tuple[Ints, Ints]:
    """Reviewers and their bands: the true chance, seen through taste, noise and slips."""
    reviewer = rng.integers(0, REVIEWERS, chance.size)
    taste = rng.normal(0.0, 0.35, REVIEWERS)
    odds = np.log(chance / (1 - chance)) + taste[reviewer] + rng.normal(0.0, 0.6, chance.size)
    band = np.searchsorted(np.array([-1.7, -0.4, 1.1]), odds)
    slip = rng.random(chance.size) < 0.06
    return reviewer, np.where(slip, rng.integers(0, 4, chance.size), band)
