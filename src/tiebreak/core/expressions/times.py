"""Dates, local times, business days and holidays of one calendar."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import cached_property

import polars as pl

from tiebreak.core.expressions.operands import (
    EPOCH,
    Operand,
    boolean,
    code_where,
    first_error,
    integer,
    null_of,
    pick,
    quotient,
    settled,
)
from tiebreak.core.expressions.scope import Type
from tiebreak.core.workflow import Calendar

# A day from the ends of what Python can show, so that local times stay within it as well.
FIRST_DAY, LAST_DAY = date(1, 1, 2), date(9999, 12, 30)
_FIRST, _LAST = FIRST_DAY.toordinal() - EPOCH, LAST_DAY.toordinal() - EPOCH
MAX_DAYS, MAX_BUSINESS_DAYS, MAX_HOURS = 1_000_000, 100_000, 24_000_000
_MICROSECONDS = {"hours": 3_600_000_000, "days": 86_400_000_000}
_MOMENT = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)(Z|[+-]\d{2}:\d{2})?)?",
    re.ASCII,
)


def parse_date(text: str) -> date | None:
    """The date written as YYYY-MM-DD; None when it is not one."""
    found = _MOMENT.fullmatch(text)
    if found is None or found[2] is not None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


class LocalCalendar:
    """The functions that need a time zone, a weekend or holidays.

    Time zone rules are those compiled into Polars, the same ones for constants and columns.
    """

    def __init__(self, calendar: Calendar) -> None:
        self._zone = calendar.timezone
        self._holidays = sorted(calendar.holidays)
        self._week = tuple(day not in calendar.weekend for day in range(1, 8))

    @cached_property
    def has_valid_zone(self) -> bool:
        """Whether the time zone is one that Polars knows."""
        try:
            pl.select(self.local(pl.lit(datetime(2000, 1, 1, tzinfo=UTC))))
        except pl.exceptions.PolarsError:
            return False
        return True

    @property
    def has_business_days(self) -> bool:
        """Whether any day of the week is one."""
        return any(self._week)

    def local(self, value: pl.Expr) -> pl.Expr:
        """A timestamp on the local clock."""
        return value if self._zone == "UTC" else value.dt.convert_time_zone(self._zone)

    def parse_timestamp(self, text: str) -> datetime | None:
        """The moment written in ISO 8601; without an offset, or as a date, it is local time.

        None when it is not one, or when no or two moments have that local time.
        """
        found = _MOMENT.fullmatch(text)
        if found is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        if not FIRST_DAY <= moment.date() <= LAST_DAY:
            return None
        if moment.tzinfo is not None:
            return moment.astimezone(UTC)
        literal = pl.lit(moment, dtype=pl.Datetime("us"))
        zoned = literal.dt.replace_time_zone(self._zone, ambiguous="null", non_existent="null")
        found_moment = pl.select(zoned.dt.convert_time_zone("UTC").dt.timestamp("us")).item()
        if found_moment is None:
            return None
        return datetime.fromtimestamp(found_moment // 1_000_000, UTC).replace(
            microsecond=found_moment % 1_000_000
        )

    def day(self, operand: Operand, position: int) -> Operand:
        """The date itself, or the local date of a timestamp."""
        if operand.type is Type.DATE:
            return operand
        value = self.local(operand.value).dt.date()
        low, high = operand.low - 1, operand.high + 1
        return Operand(Type.DATE, value, position, operand.error, low=low, high=high)

    def part(self, name: str, operand: Operand, position: int) -> Operand:
        """year, month, day, hour, minute, day_of_week (ISO, Monday is 1) or day_of_year."""
        parts = self.local(operand.value) if operand.type is Type.TIMESTAMP else operand.value
        value, low, high = {
            "year": (parts.dt.year(), 0, 10_000),
            "month": (parts.dt.month(), 1, 12),
            "day": (parts.dt.day(), 1, 31),
            "hour": (parts.dt.hour(), 0, 23),
            "minute": (parts.dt.minute(), 0, 59),
            "day_of_week": (parts.dt.weekday(), 1, 7),
            "day_of_year": (parts.dt.ordinal_day(), 1, 366),
        }[name]
        return integer(value.cast(pl.Int64), position, operand.error, low, high)

    def is_holiday(self, operand: Operand, position: int) -> Operand:
        """Whether the (local) date is one of the calendar's holidays."""
        day = self.day(operand, position)
        holidays = pl.Series(self._holidays, dtype=pl.Date)
        return boolean(day.value.is_in(holidays.implode()), position, day.error)

    def is_business_day(self, operand: Operand, position: int) -> Operand:
        """Whether the (local) date is neither weekend nor holiday."""
        day = self.day(operand, position)
        value = day.value.dt.is_business_day(week_mask=self._week, holidays=self._holidays)
        return boolean(value, position, day.error)

    def business_days_between(self, start: Operand, end: Operand, position: int) -> Operand:
        """Business days from `start` (inclusive) to `end` (exclusive); negative when turned."""
        first, last = self.day(start, position), self.day(end, position)
        value = self._business_days(last.value) - self._business_days(first.value)
        error = first_error(first.error, last.error)
        return integer(value, position, error, -4_000_000, 4_000_000)

    def _business_days(self, day: pl.Expr) -> pl.Expr:
        """Business days before this day, from one fixed day on."""
        count = pl.business_day_count(
            pl.lit(date(1, 1, 1)), day, week_mask=self._week, holidays=self._holidays
        )
        return count.cast(pl.Int64)

    def add_business_days(self, start: Operand, count: Operand, position: int) -> Operand:
        """The `count`-th business day after (before, when negative) the day; the day for 0."""
        day = self.day(start, position)
        steps, error = _limited(count, MAX_BUSINESS_DAYS, day.value)
        small = steps.cast(pl.Int32)
        # Rolling against the direction makes the first step land on the first business day.
        after, before = (
            day.value.dt.add_business_days(
                small, week_mask=self._week, holidays=self._holidays, roll=roll
            )
            for roll in ("backward", "forward")
        )
        if count.low > 0:
            moved = after
        elif count.high < 0:
            moved = before
        else:
            moved = pick(steps == 0, day.value, null_of(Type.DATE))
            moved = pick(steps > 0, after, pick(steps < 0, before, moved))
        reach = 7.0 * MAX_BUSINESS_DAYS + 366 * len(self._holidays)
        low = day.low if count.low >= 0 else day.low - reach
        high = day.high if count.high <= 0 else day.high + reach
        if abs(count.low) <= 50 and abs(count.high) <= 50:
            reach = 1_000.0 + len(self._holidays)
            low, high = day.low - reach, day.high + reach
        found = Operand(
            Type.DATE,
            moved,
            position,
            first_error(day.error, count.error, error),
            low=low,
            high=high,
        )
        return _within_calendar(found)


def between(unit: str, start: Operand, end: Operand, position: int) -> Operand:
    """`end - start` in hours or days, as a NUMBER; a day of timestamps is 24 hours."""
    difference = (_microseconds(end) - _microseconds(start)).cast(pl.Float64)
    scale = 24.0 if unit == "hours" else 1.0
    return Operand(
        Type.NUMBER,
        quotient(difference, pl.lit(float(_MICROSECONDS[unit]))),
        position,
        first_error(start.error, end.error),
        low=(end.low - start.high) * scale,
        high=(end.high - start.low) * scale,
    )


def _microseconds(moment: Operand) -> pl.Expr:
    """Microseconds since 1970; years 1 to 9999 fit 64 bits."""
    since = moment.value.cast(pl.Int64)
    return since if moment.type is Type.TIMESTAMP else since * _MICROSECONDS["days"]


def add(unit: str, start: Operand, count: Operand, position: int) -> Operand:
    """The date or moment `count` days (of 24 hours) or hours later."""
    limit, scale = (MAX_HOURS, 24) if unit == "hours" else (MAX_DAYS, 1)
    steps, error = _limited(count, limit, start.value)
    moved = start.value + (steps * _MICROSECONDS[unit]).cast(pl.Duration("us"))
    low = start.low + max(count.low, -limit) / scale
    high = start.high + min(count.high, limit) / scale
    error = first_error(start.error, count.error, error)
    return _within_calendar(Operand(start.type, moved, position, error, low=low, high=high))


def _limited(count: Operand, limit: int, start: pl.Expr) -> tuple[pl.Expr, pl.Expr | None]:
    """The count where it is within limits; the error where it is not and there is a start."""
    count = settled(count)
    if -limit <= count.low and count.high <= limit:
        return count.value, None
    is_within = count.value.is_between(-limit, limit)
    is_beyond = ~is_within & start.is_not_null()
    return pl.when(is_within).then(count.value), code_where(is_beyond, "out_of_range")


def _within_calendar(operand: Operand) -> Operand:
    """The operand, "out_of_range" where it left the years 1 to 9999."""
    if operand.low >= _FIRST and operand.high <= _LAST:
        return operand
    value = operand.value
    days = value if operand.type is Type.DATE else value.dt.date()
    is_within = days.is_between(FIRST_DAY, LAST_DAY)
    return Operand(
        operand.type,
        pl.when(is_within).then(value),
        operand.position,
        first_error(operand.error, code_where(~is_within, "out_of_range")),
        low=float(_FIRST),
        high=float(_LAST),
    )
