"""Calendars: a named public calendar becomes explicit dates, once, when a workflow is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import cache
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

import holidays
from pydantic import BaseModel, ConfigDict

from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import Calendar

FIRST_YEAR, LAST_YEAR = 1900, 2200


class CalendarSource(BaseModel):
    """A calendar as a workflow's files write it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timezone: str = "UTC"
    country: str | None = None
    subdivision: str | None = None
    years: tuple[int, int] | None = None
    holidays: tuple[date, ...] = ()
    weekend: tuple[int, ...] = (6, 7)


class CalendarMistake(ValueError):
    """What a calendar says cannot be; `key` names the entry that says it."""

    def __init__(self, key: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.message = message
        self.hint = hint


@cache
def time_zones() -> frozenset[str]:
    """The names of all time zones of this machine."""
    return frozenset(available_timezones())


def mistakes_of(source: CalendarSource) -> list[CalendarMistake]:
    """Everything that keeps the calendar from being expanded."""
    found: list[CalendarMistake] = []
    if source.timezone not in time_zones():
        found.append(unknown_time_zone("timezone", source.timezone))
    if not all(1 <= day <= 7 for day in source.weekend):
        found.append(CalendarMistake("weekend", "must be ISO weekdays, 1 (Monday) to 7"))
    if len(set(source.weekend)) == 7:
        found.append(CalendarMistake("weekend", "leaves no day to work on"))
    if source.years is not None:
        first, last = source.years
        if not FIRST_YEAR <= first <= last <= LAST_YEAR:
            message = f"must be a first and a last year within {FIRST_YEAR} to {LAST_YEAR}"
            found.append(CalendarMistake("years", message))
    return found + _country_mistakes(source)


def unknown_time_zone(key: str, name: str) -> CalendarMistake:
    """The mistake of naming a time zone that there is not."""
    return CalendarMistake(
        key, f"`{name}` is not a time zone", did_you_mean(name, sorted(time_zones()))
    )


def _country_mistakes(source: CalendarSource) -> list[CalendarMistake]:
    if source.country is None:
        wanting = [key for key in ("subdivision", "years") if getattr(source, key) is not None]
        return [CalendarMistake(key, "needs `country`") for key in wanting]
    found: list[CalendarMistake] = []
    if source.years is None:
        found.append(CalendarMistake("country", "needs `years`", "such as `years: [2015, 2035]`"))
    supported = cast("dict[str, Sequence[str]]", holidays.list_supported_countries())
    if source.country not in supported:
        message = f"`{source.country}` is not a country with known holidays"
        hint = did_you_mean(source.country, supported) or "use the ISO 3166 code, such as `US`"
        return [*found, CalendarMistake("country", message, hint)]
    subdivisions = supported[source.country]
    if source.subdivision is not None and source.subdivision not in subdivisions:
        message = f"`{source.subdivision}` is not a part of {source.country} with holidays"
        hint = did_you_mean(source.subdivision, subdivisions)
        found.append(CalendarMistake("subdivision", message, hint))
    return found


def expanded(source: CalendarSource) -> Calendar:
    """The calendar with its holidays as explicit, sorted dates. The source has no mistakes."""
    days = set(source.holidays)
    if source.country is not None and source.years is not None:
        first, last = source.years
        public: Any = holidays.country_holidays(
            source.country, subdiv=source.subdivision, years=range(first, last + 1)
        )
        days.update(public)
    return Calendar(
        timezone=ZoneInfo(source.timezone).key,
        holidays=tuple(sorted(days)),
        weekend=tuple(sorted(set(source.weekend))),
    )
