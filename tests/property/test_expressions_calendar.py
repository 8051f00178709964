"""Business days, holidays and day arithmetic agree with counting them one by one."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.core.expressions import Scope, Symbol, Type, compile_expression
from tiebreak.core.workflow import Calendar

DAY = dt.timedelta(days=1)
_days = st.dates(dt.date(2020, 1, 1), dt.date(2024, 12, 31))
_calendars = st.builds(
    Calendar,
    timezone=st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"]),
    holidays=st.lists(_days, max_size=20).map(tuple),
    weekend=st.sets(st.integers(1, 7), max_size=6).map(tuple),
)
_SYMBOLS = {
    "d": Symbol(Type.DATE),
    "e": Symbol(Type.DATE),
    "ts": Symbol(Type.TIMESTAMP),
    "n": Symbol(Type.INTEGER),
}


def evaluate(sql: str, calendar: Calendar, **row: object) -> object:
    frame = pl.DataFrame(
        {name: [value] for name, value in row.items()},
        schema={name: _SYMBOLS[name].type.dtype for name in row},
    )
    compiled = compile_expression(sql, Scope(_SYMBOLS, calendar))
    return frame.select(compiled.value.alias("v")).item()


def is_business_day(day: dt.date, calendar: Calendar) -> bool:
    return day.isoweekday() not in calendar.weekend and day not in calendar.holidays


def count(start: dt.date, end: dt.date, calendar: Calendar) -> int:
    if end < start:
        return -count(end, start, calendar)
    days = (start + i * DAY for i in range((end - start).days))
    return sum(is_business_day(day, calendar) for day in days)


def step(day: dt.date, n: int, calendar: Calendar) -> dt.date:
    while n:
        day += DAY if n > 0 else -DAY
        if is_business_day(day, calendar):
            n -= 1 if n > 0 else -1
    return day


@settings(max_examples=80, deadline=None)
@given(d=_days, e=_days, n=st.integers(-40, 40), calendar=_calendars)
def test_business_days(d: dt.date, e: dt.date, n: int, calendar: Calendar) -> None:
    e = max(min(e, d + 200 * DAY), d - 200 * DAY)
    assert evaluate("is_business_day(d)", calendar, d=d) == is_business_day(d, calendar)
    assert evaluate("is_holiday(d)", calendar, d=d) == (d in calendar.holidays)
    assert evaluate("business_days_between(d, e)", calendar, d=d, e=e) == count(d, e, calendar)
    wanted = step(d, n, calendar)
    assert evaluate("add_business_days(d, n)", calendar, d=d, n=n) == wanted
    assert evaluate(f"add_business_days(d, {n})", calendar, d=d) == wanted


@settings(max_examples=80, deadline=None)
@given(ts=st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2036, 12, 31)), calendar=_calendars)
def test_local_parts(ts: dt.datetime, calendar: Calendar) -> None:
    moment = ts.replace(tzinfo=dt.UTC)
    local = moment.astimezone(ZoneInfo(calendar.timezone))
    assert evaluate("date(ts)", calendar, ts=moment) == local.date()
    assert evaluate("hour(ts)", calendar, ts=moment) == local.hour
    assert evaluate("day_of_week(ts)", calendar, ts=moment) == local.isoweekday()
    assert evaluate("is_business_day(ts)", calendar, ts=moment) == is_business_day(
        local.date(), calendar
    )


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(-(2**63), 2**63 - 1) | st.integers(-1_100_000, 1_100_000),
    start=st.sampled_from([dt.date(1900, 1, 1), dt.date(2024, 2, 29), dt.date(2200, 12, 31)]),
    calls=st.integers(1, 3),
)
def test_dates_never_leave_what_can_be_shown(n: int, start: dt.date, calls: int) -> None:
    sql = "d"
    for name in ("add_days", "add_business_days") * 4:
        if calls:
            sql, calls = f"{name}({sql}, n)", calls - 1
    calendar = Calendar(weekend=(6, 7), timezone="Pacific/Kiritimati")
    value = evaluate(sql, calendar, d=start, n=n)
    assert value is None or isinstance(value, dt.date)
    moment = dt.datetime(start.year, 1, 1, tzinfo=dt.UTC)
    shown = evaluate("date(add_days(add_days(add_days(ts, n), n), n))", calendar, ts=moment, n=n)
    assert shown is None or isinstance(shown, dt.date)
