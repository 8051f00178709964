"""Simulated tickets: when they come, from whom, where, and what is to be dug."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from tiebreak.ingest.simulation import trades
from tiebreak.ingest.simulation.world import (
    DAY_US,
    EXCAVATORS,
    HOUR_US,
    STREETS_A_CITY,
    Flags,
    Floats,
    Ints,
    World,
)

# By local month, ISO weekday and hour: the building season, the working week, the working day.
MONTHS = np.array([0.55, 0.60, 0.85, 1.10, 1.25, 1.30, 1.25, 1.25, 1.15, 1.10, 0.85, 0.60])
WEEKDAYS = np.array([1.15, 1.10, 1.05, 1.05, 0.95, 0.16, 0.08])
HOURS = np.array(
    [0.02] * 5 + [0.10, 0.50, 1.40, 1.60, 1.50, 1.40, 1.20, 1.00, 1.20, 1.20, 1.05, 0.70, 0.35]
    + [0.15, 0.10, 0.06, 0.04, 0.03, 0.02]
)  # fmt: skip

TYPES = ("normal", "emergency", "short_notice", "renewal", "second_notice", "design")
NORMAL, EMERGENCY, SHORT_NOTICE, RENEWAL, SECOND_NOTICE, DESIGN = range(len(TYPES))
DIRECTIONAL_BORE = trades.METHODS.index("directional_bore")
HAND_DIG = trades.METHODS.index("hand_dig")
BLASTING = trades.METHODS.index("blasting")


@dataclass(frozen=True, slots=True)
class Draft:
    """Tickets as columns of codes, one row a ticket in time order; `prior` is a row or -1."""

    opened_us: Ints
    day: Ints
    hour: Ints  # local
    weekday: Ints  # ISO
    kind: Ints
    excavator: Ints
    city: Ints
    street: Ints
    trade: Ints
    method: Ints
    is_boring: Flags
    explosives: Flags
    white_lined: Flags
    depth_ft: Floats  # NaN: not given
    polygon_sqft: Floats
    overlap_ft: Floats
    facilities: Flags  # (n, facilities)
    lead: Ints  # index of the facility with the most work; its owner leads
    prior: Ints
    remark: Ints  # 0 calm, 1 access, 2 crew on site, 3 vague
    storm: Floats
    due_us: Ints
    work_begins_us: Ints
    expires_us: Ints


def draw_tickets(
    seed: np.random.SeedSequence, world: World, count: int, drift_from_day: int
) -> Draft:
    """`count` tickets over the world's days, in time order, at distinct microseconds."""
    rng = np.random.default_rng(seed)
    opened = _opening_times(rng, world, count)
    local = world.calendar.local(opened)
    hour = local.dt.hour().cast(pl.Int64).to_numpy()
    weekday = local.dt.weekday().cast(pl.Int64).to_numpy()
    day = np.minimum((opened - world.calendar.start_us) // DAY_US, world.calendar.days - 1)
    is_late_day = day >= drift_from_day

    excavator = rng.choice(EXCAVATORS, count, p=world.excavator_weight)
    at_home = rng.random(count) < 0.6
    anywhere = rng.choice(len(world.city_weight), count, p=world.city_weight)
    city = np.where(at_home, world.excavator_home[excavator], anywhere)
    street = (STREETS_A_CITY * rng.random(count) ** 1.6).astype(np.int64)
    trade = _trades(rng, world, excavator, is_late_day)
    storm = world.storm[day, city]
    kind = _kinds(rng, storm)
    prior = _priors(rng, excavator, kind, opened)
    kind = np.where((prior < 0) & ((kind == RENEWAL) | (kind == SECOND_NOTICE)), NORMAL, kind)
    follows = prior >= 0
    for column in (city, street, trade):
        _copy_prior(column, prior)
    storm = np.where(follows, world.storm[day, city], storm)

    method = _methods(rng, trade)
    area = trades.AREAS_SQFT[trade] * rng.lognormal(0.0, 0.9, count)
    depth = np.maximum(0.5, trades.DEPTHS_FT[trade] * rng.lognormal(0.0, 0.35, count))
    facilities = _facilities(rng, world, city, trade)
    overlap = np.sqrt(area) * rng.lognormal(0.2, 0.8, count) * (facilities.sum(axis=1) > 0)
    due, begins, expires = _dates(rng, world, local, opened, kind)
    return Draft(
        opened_us=opened,
        day=day,
        hour=hour,
        weekday=weekday,
        kind=kind,
        excavator=excavator,
        city=city,
        street=street,
        trade=trade,
        method=method,
        is_boring=(method == DIRECTIONAL_BORE) | (rng.random(count) < 0.015),
        explosives=(method == BLASTING) & (rng.random(count) < 0.8),
        white_lined=rng.random(count) < np.where(area > 3_000, 0.45, 0.62),
        depth_ft=np.where(rng.random(count) < 0.06, np.nan, depth),
        polygon_sqft=area,
        overlap_ft=overlap,
        facilities=facilities,
        lead=_leads(rng, facilities),
        prior=prior,
        remark=rng.choice(4, count, p=[0.78, 0.10, 0.06, 0.06]),
        storm=storm,
        due_us=due,
        work_begins_us=begins,
        expires_us=expires,
    )


def _opening_times(rng: np.random.Generator, world: World, count: int) -> Ints:
    calendar = world.calendar
    hours = calendar.start_us + HOUR_US * np.arange(calendar.days * 24, dtype=np.int64)
    local = calendar.local(hours)
    month = local.dt.month().cast(pl.Int64).to_numpy() - 1
    weekday = local.dt.weekday().cast(pl.Int64).to_numpy() - 1
    weight = MONTHS[month] * WEEKDAYS[weekday] * HOURS[local.dt.hour().cast(pl.Int64).to_numpy()]
    dates = local.dt.date().to_numpy().astype("datetime64[D]")
    is_free = ~calendar.is_business(dates) & (weekday < 5)
    weight = np.where(is_free, weight * 0.12, weight)
    storm = world.storm[:-1].mean(axis=1).repeat(24)
    weight = weight * (1.0 + 0.10 * storm) + 0.01 * storm
    chosen = rng.choice(hours.size, count, p=weight / weight.sum())
    moments = np.sort(hours[chosen] + rng.integers(0, HOUR_US, count))
    steps = np.arange(count)
    return np.maximum.accumulate(moments - steps) + steps  # equal ones move on by a microsecond


def _trades(rng: np.random.Generator, world: World, excavator: Ints, is_late_day: Flags) -> Ints:
    count = excavator.size
    usual = rng.random(count) < 0.55
    other = rng.choice(len(trades.TRADES), count, p=trades.SHARES)
    trade = np.where(usual, world.excavator_trade[excavator], other)
    rollout = is_late_day & (rng.random(count) < 0.12)
    return np.where(rollout, trades.FIBER, trade)


def _kinds(rng: np.random.Generator, storm: Floats) -> Ints:
    draw = rng.random(storm.size)
    emergency = 0.035 + 0.07 * storm
    kind = np.full(storm.size, NORMAL, dtype=np.int64)
    edge = emergency
    kind[draw < edge] = EMERGENCY
    for code, share in ((SHORT_NOTICE, 0.05), (RENEWAL, 0.09), (SECOND_NOTICE, 0.025)):
        kind[(draw >= edge) & (draw < edge + share)] = code
        edge = edge + share
    kind[(draw >= edge) & (draw < edge + 0.02)] = DESIGN
    return kind


def _priors(rng: np.random.Generator, excavator: Ints, kind: Ints, opened: Ints) -> Ints:
    """The row of the ticket that each renewal and second notice follows, else -1.

    It is the same excavator's newest ticket that is at least two to four weeks (renewal) or
    three to six days (second notice) old.
    """
    gap_days = np.where(
        kind == RENEWAL, rng.uniform(14, 27, kind.size), rng.uniform(3, 6, kind.size)
    )
    elapsed = opened - opened[0]
    span = int(elapsed[-1]) + 1
    order = np.argsort(excavator, kind="stable")
    keys = excavator[order] * span + elapsed[order]
    earlier = elapsed - (gap_days * DAY_US).astype(np.int64)
    wanted = excavator * span + np.maximum(earlier, 0)
    found = keys.searchsorted(wanted) - 1
    prior = order[np.maximum(found, 0)]
    is_prior = (found >= 0) & (earlier > 0) & (excavator[prior] == excavator)
    return np.where(is_prior & ((kind == RENEWAL) | (kind == SECOND_NOTICE)), prior, -1)


def _copy_prior(column: Ints, prior: Ints) -> None:
    """Follow-up tickets take the value of the ticket that they follow, in time order."""
    for row in np.flatnonzero(prior >= 0):
        column[row] = column[prior[row]]


def _methods(rng: np.random.Generator, trade: Ints) -> Ints:
    draw = rng.random(trade.size)[:, None]
    below = draw > trades.METHOD_CUMULATIVE[trade]
    return np.minimum(below.sum(axis=1), len(trades.METHODS) - 1)


def _facilities(rng: np.random.Generator, world: World, city: Ints, trade: Ints) -> Flags:
    shares = world.has_facility[city]
    present = rng.random(shares.shape) < shares
    present[(trade == trades.TRADE_NAMES.index("gas_main")), 0] = True
    none = ~present.any(axis=1)
    present[none, 1] = True
    return present


def _leads(rng: np.random.Generator, facilities: Flags) -> Ints:
    pull = np.log(np.array([1.6, 1.5, 1.2, 1.0, 0.7, 1.1, 1.0, 1.4]))
    noise = rng.gumbel(0.0, 1.0, facilities.shape)
    return np.where(facilities, pull + noise, -np.inf).argmax(axis=1)


def _dates(
    rng: np.random.Generator, world: World, local: pl.Series, opened: Ints, kind: Ints
) -> tuple[Ints, Ints, Ints]:
    """When marks are due, when work begins, when the ticket expires."""
    days = local.dt.date().to_numpy().astype("datetime64[D]")
    notice = np.select(
        [kind == SHORT_NOTICE, kind == SECOND_NOTICE, kind == DESIGN], [1, 1, 10], default=2
    )
    end_of_day = world.calendar.add_business_days(days, notice + 1)
    due = np.where(kind == EMERGENCY, opened + 2 * HOUR_US, end_of_day - 60_000_000)
    wait = rng.gamma(1.2, 2.2, opened.size) * DAY_US
    begins = due + wait.astype(np.int64)
    is_hasty = rng.random(opened.size) < 0.012
    begins = np.where(is_hasty, due - (due - opened) // 3, begins)
    begins = np.where(kind == EMERGENCY, opened + HOUR_US, begins)
    expires = due + np.where(kind == DESIGN, 90, 21) * DAY_US
    return due, begins // 60_000_000 * 60_000_000, expires
