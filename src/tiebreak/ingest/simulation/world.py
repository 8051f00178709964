"""The simulated world: places, facility owners, excavators, seasons and storms.

Everything here is invented. Names are plainly artificial ("Excavator 0417", "City 03").
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import holidays
import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

TIMEZONE = "America/Chicago"
HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

CITIES = 12
STREETS_A_CITY = 90
EXCAVATORS = 420
STORMS_A_YEAR = 14

FACILITIES = ("gas", "electric", "telecom", "water", "sewer", "fiber", "steam", "petroleum")
COMPANIES = {  # how many owners share the cities between them
    "gas": 3,
    "electric": 3,
    "telecom": 4,
    "water": 4,
    "sewer": 3,
    "fiber": 4,
    "steam": 1,
    "petroleum": 1,
}


@dataclass(frozen=True, slots=True)
class Calendar:
    """Local days and business days of the simulated time, by index from `first_day`."""

    start_us: int
    days: int
    first_day: date
    holidays: tuple[date, ...]

    def local(self, moments: Ints) -> pl.Series:
        """Microseconds UTC as local wall time."""
        return pl.Series(moments).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(TIMEZONE)

    def add_business_days(self, days: NDArray[np.datetime64], count: Ints) -> Ints:
        """Local days moved on by business days, as microseconds UTC at local midnight."""
        moved = np.busday_offset(
            days, count, roll="backward", holidays=np.array(self.holidays, dtype="datetime64[D]")
        )
        local = pl.Series(moved.astype("datetime64[us]")).dt.replace_time_zone(
            TIMEZONE, ambiguous="earliest", non_existent="null"
        )
        return local.dt.epoch("us").to_numpy().astype(np.int64)

    def is_business(self, days: NDArray[np.datetime64]) -> Flags:
        """Whether each local day is a business day."""
        return np.is_busday(days, holidays=np.array(self.holidays, dtype="datetime64[D]"))


@dataclass(frozen=True, slots=True)
class World:
    """What stays hidden from rules and model: who is careful, who is slow, where storms pass."""

    calendar: Calendar
    city_weight: Floats  # (cities,)
    city_difficulty: Floats  # (cities,)
    street_difficulty: Floats  # (cities, streets)
    has_facility: Floats  # (cities, facilities): share of dig areas that meet one
    owner: Ints  # (cities, facilities): index of the facility's owner there
    owner_names: tuple[str, ...]
    owner_slowness: Floats  # (owners,)
    excavator_weight: Floats  # (excavators,)
    excavator_planning: Floats  # (excavators, quarters): high is bad
    excavator_care: Floats  # (excavators, quarters): high is bad
    excavator_trade: Ints  # (excavators,): the work type that it does most
    excavator_home: Ints  # (excavators,): the city it works in most
    storm: Floats  # (days, cities): severity, 0 is calm


def build_world(
    seed: np.random.SeedSequence, start: datetime, days: int, *, trades: int, drift_from_day: int
) -> World:
    """A world for `days` days from `start`; from `drift_from_day` on, excavators get worse."""
    rng = np.random.default_rng(seed)
    years = range(start.year - 1, start.year + days // 365 + 3)
    free = tuple(sorted(holidays.country_holidays("US", years=years)))
    owner, owner_names = _owners(rng)
    planning, care = _excavator_quality(rng, days, drift_from_day)
    return World(
        calendar=Calendar(_microseconds(start), days, start.date(), free),
        city_weight=_shares(rng.lognormal(0.0, 0.7, CITIES)),
        city_difficulty=rng.normal(0.0, 0.35, CITIES),
        street_difficulty=rng.normal(0.0, 0.45, (CITIES, STREETS_A_CITY)),
        has_facility=_facility_shares(rng),
        owner=owner,
        owner_names=owner_names,
        owner_slowness=rng.normal(0.0, 0.65, len(owner_names)),
        excavator_weight=_shares(rng.lognormal(0.0, 1.15, EXCAVATORS)),
        excavator_planning=planning,
        excavator_care=care,
        excavator_trade=rng.integers(0, trades, EXCAVATORS),
        excavator_home=rng.integers(0, CITIES, EXCAVATORS),
        storm=_storms(rng, days),
    )


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp()) * 1_000_000


def _shares(weights: Floats) -> Floats:
    return weights / weights.sum()


def _owners(rng: np.random.Generator) -> tuple[Ints, tuple[str, ...]]:
    """Who owns each facility in each city, and the owners' names ("GAS02")."""
    owner = np.empty((CITIES, len(FACILITIES)), dtype=np.int64)
    names: list[str] = []
    for column, facility in enumerate(FACILITIES):
        count = COMPANIES[facility]
        owner[:, column] = len(names) + rng.integers(0, count, CITIES)
        names += [f"{facility.upper()}{number + 1:02d}" for number in range(count)]
    return owner, tuple(names)


def _facility_shares(rng: np.random.Generator) -> Floats:
    usual = np.array([0.62, 0.78, 0.66, 0.70, 0.48, 0.30, 0.02, 0.03])
    spread = rng.normal(0.0, 0.5, (CITIES, len(FACILITIES)))
    odds = usual / (1 - usual) * np.exp(spread)
    return odds / (1 + odds)


def _excavator_quality(
    rng: np.random.Generator, days: int, drift_from_day: int
) -> tuple[Floats, Floats]:
    """Planning and care by quarter: a lasting part and a part that wanders."""
    quarters = days // 91 + 2
    lasting = rng.normal(0.0, 1.0, (2, EXCAVATORS, 1))
    steps = rng.normal(0.0, 0.35, (2, EXCAVATORS, quarters))
    wandering = np.zeros_like(steps)
    for quarter in range(1, quarters):
        wandering[:, :, quarter] = 0.8 * wandering[:, :, quarter - 1] + steps[:, :, quarter]
    quality = lasting + wandering
    drifting = np.arange(quarters) * 91 >= drift_from_day
    worse = rng.random(EXCAVATORS) < 0.3
    quality[:, worse] += 1.2 * drifting
    return quality[0], quality[1]


def _storms(rng: np.random.Generator, days: int) -> Floats:
    """Severity by day and city: a storm lasts one to four days and meets a third of the cities."""
    severity = np.zeros((days + 1, CITIES))
    count = rng.poisson(STORMS_A_YEAR * days / 365)
    for first in rng.integers(0, max(days, 1), count):
        last = first + rng.integers(1, 5)
        hit = rng.random(CITIES) < 0.35
        severity[first:last, hit] += rng.uniform(0.6, 1.6)
    return np.minimum(severity, 2.0)
