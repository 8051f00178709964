"""What rows of files may hold where JSON is strict: texts for numbers, and native values."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from tiebreak.core.unfit import Unfit
from tiebreak.core.workflow import FieldType

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_LONGEST_NUMBER = 400  # characters; a longer text is no number that a file would hold
_TRUE = frozenset(("true", "t", "yes", "y", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "0"))


def _text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _integer(value: Any) -> Any:
    if type(value) is str:
        text = value.strip()
        if _INTEGER.fullmatch(text) is None:
            raise Unfit("wrong_type", "must be an integer")
        return int(text.partition(".")[0])
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)  # columns of integers with gaps are often stored as floats
    return value


def _number(value: Any) -> Any:
    if type(value) is str:
        text = value.strip()
        if len(text) > _LONGEST_NUMBER or _NUMBER.fullmatch(text) is None:
            raise Unfit("wrong_type", "must be a finite number")
        return float(text)
    return float(value) if type(value) is Decimal else value


def _boolean(value: Any) -> Any:
    if type(value) is str:
        text = value.strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
        raise Unfit("wrong_type", "must be true or false", "or yes/no, t/f, y/n, 1/0")
    if type(value) is int and value in (0, 1):
        return value == 1
    return value


def _time(value: Any) -> Any:
    return value.strip() if type(value) is str else value


def _date(value: Any) -> Any:
    if type(value) is datetime and (value.hour, value.minute, value.second) == (0, 0, 0):
        return value.date()
    return _time(value)


def _tags(value: Any) -> Any:
    if type(value) is not str:
        return value
    return [tag for each in value.split(";") if (tag := each.strip())]


# Each turns what a row holds into what the strict reader takes, or leaves it for that to refuse.
LOOSEN: dict[FieldType, Callable[[Any], Any]] = {
    FieldType.TEXT: _text,
    FieldType.CATEGORY: _text,
    FieldType.INTEGER: _integer,
    FieldType.NUMBER: _number,
    FieldType.BOOLEAN: _boolean,
    FieldType.TIMESTAMP: _time,
    FieldType.DATE: _date,
    FieldType.TAGS: _tags,
}
