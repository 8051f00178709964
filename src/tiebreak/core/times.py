"""Readers of timestamps and dates; daylight saving makes some local times ambiguous or skipped."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from tiebreak.core.unfit import Unfit, mistyped
from tiebreak.core.workflow import Field

FIRST_YEAR, LAST_YEAR = 1900, 2200

_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def timestamp_reader(field: Field) -> Callable[[Any], datetime]:
    """The reader of a timestamp field: a moment in UTC, microseconds."""
    zone = None if field.timezone is None else ZoneInfo(field.timezone)

    def read(value: Any) -> datetime:
        if type(value) is datetime:
            moment = value
        elif type(value) is not str:
            raise mistyped("a timestamp in ISO 8601", value)
        else:
            moment = _parsed(value)
        if not FIRST_YEAR <= moment.year <= LAST_YEAR:
            raise Unfit("time_out_of_range", f"must lie in the years {FIRST_YEAR} to {LAST_YEAR}")
        if moment.tzinfo is not None:
            return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
        if zone is None:
            raise Unfit(
                "no_time_zone",
                "has no time zone",
                "append an offset such as `Z` or `-05:00`, or declare `timezone` for the field",
            )
        return _placed(moment, zone, field)

    return read


def _parsed(text: str) -> datetime:
    if _TIMESTAMP.fullmatch(text) is not None:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    raise Unfit("not_a_time", "is not a timestamp", "write it like 2017-01-31T08:30:00Z")


def _placed(moment: datetime, zone: ZoneInfo, field: Field) -> datetime:
    """A local time in UTC; daylight saving makes some ambiguous and skips others."""
    early = moment.replace(tzinfo=zone, fold=0).astimezone(UTC)
    late = moment.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if early == late:
        return early
    if early < late:
        if field.ambiguous == "error":
            raise Unfit(
                "ambiguous_time",
                f"happens twice in {field.timezone}, when clocks go back",
                "append the offset, or set `ambiguous: earliest` or `latest` for the field",
            )
        return early if field.ambiguous == "earliest" else late
    if field.nonexistent == "error":
        raise Unfit(
            "nonexistent_time",
            f"does not exist in {field.timezone}, where clocks go forward over it",
            "correct it, or set `nonexistent: forward` for the field",
        )
    return early  # read with the offset before the gap, it lands as far after the gap


def read_date(value: Any) -> date:
    """The day in `YYYY-MM-DD` or a native date. Raises Unfit."""
    if type(value) is date:
        day = value
    elif type(value) is not str:
        raise mistyped("a date", value)
    else:
        try:
            day = date.fromisoformat(value) if _DATE.fullmatch(value) else None
        except ValueError:
            day = None
        if day is None:
            raise Unfit("not_a_date", "is not a date", "write it like 2017-01-31")
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise Unfit("time_out_of_range", f"must lie in the years {FIRST_YEAR} to {LAST_YEAR}")
    return day
