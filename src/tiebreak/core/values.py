"""Readers of single values: what a ticket's field may hold, one reader a field.

A reader takes what JSON or a file gave and returns the value in its one normal form, or raises
`Unfit`. Normal forms: text and category `str`, integer `int` within 64 bits, number finite
`float`, boolean `bool`, timestamp `datetime` in UTC, date `date`, tags `tuple[str, ...]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, assert_never, cast

from tiebreak.core.rows import LOOSEN
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.times import read_date, timestamp_reader
from tiebreak.core.unfit import Unfit, mistyped
from tiebreak.core.workflow import Field, FieldType

Reader = Callable[[Any], Any]

MAX_TAG_CHARACTERS = 200
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def reader(field: Field, *, is_lax: bool) -> Reader:
    """The reader of a field: strict for JSON, lax for rows of files (strings, native values)."""
    strict = _strict(field)
    if not is_lax:
        return strict
    loosen = LOOSEN.get(field.type)
    if loosen is None:
        return strict
    return lambda value: strict(loosen(value))


def _strict(field: Field) -> Reader:
    match field.type:
        case FieldType.TEXT:
            return _text(field)
        case FieldType.CATEGORY:
            return _category(field)
        case FieldType.INTEGER:
            return _integer(field)
        case FieldType.NUMBER:
            return _number(field)
        case FieldType.BOOLEAN:
            return _boolean
        case FieldType.TIMESTAMP:
            return timestamp_reader(field)
        case FieldType.DATE:
            return read_date
        case FieldType.TAGS:
            return _tags(field)
        case _:
            assert_never(field.type)


# --- text, category, tags ------------------------------------------------------------------


def check_characters(text: str) -> None:
    """Refuse what no UTF-8 column can store: NUL and lone surrogates. Raises Unfit."""
    if "\x00" in text:
        raise Unfit("nul_character", "holds a NUL character", "remove it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unfit(
                "lone_surrogate", "holds a lone surrogate, which is not a character", "send UTF-8"
            ) from None


def _text(field: Field) -> Reader:
    limit = field.max_length

    def read(value: Any) -> str:
        if type(value) is not str:
            raise mistyped("a text", value)
        if len(value) > limit:
            raise Unfit("too_long", f"is {len(value)} characters long, at most {limit} are allowed")
        check_characters(value)
        return value

    return read


def _category(field: Field) -> Reader:
    if not field.values:
        return _text(field)
    allowed = frozenset(field.values)

    def read(value: Any) -> str:
        if type(value) is not str:
            raise mistyped("a text", value)
        if value not in allowed:
            raise _not_allowed(field, value)
        return value

    return read


def _not_allowed(field: Field, value: str) -> Unfit:
    shown = "the value" if field.pii or len(value) > 80 else f"`{value}`"
    return Unfit(
        "not_allowed_value",
        f"{shown} is not an allowed value",
        did_you_mean(value, field.values),
    )


def _tags(field: Field) -> Reader:
    allowed = frozenset(field.values)
    limit = field.max_length

    def read(value: Any) -> tuple[str, ...]:
        if type(value) is not list and type(value) is not tuple:
            raise mistyped("a list of texts", cast("object", value))
        tags = cast("Sequence[Any]", value)
        if len(tags) > limit:
            raise Unfit("too_long", f"has {len(tags)} entries, at most {limit} are allowed")
        for tag in tags:
            if type(tag) is not str:
                raise mistyped("a list of texts", tag)
            if allowed:
                if tag not in allowed:
                    raise _not_allowed(field, tag)
            elif len(tag) > MAX_TAG_CHARACTERS:
                raise Unfit(
                    "too_long", f"has an entry of more than {MAX_TAG_CHARACTERS} characters"
                )
            else:
                check_characters(tag)
        if len(set(tags)) != len(tags):
            raise Unfit("repeated_tag", "holds an entry twice", "send each entry once")
        return tuple(tags)

    return read


# --- integer, number, boolean --------------------------------------------------------------


def _out_of_range(field: Field) -> Unfit:
    low, high = field.minimum, field.maximum
    if low is not None and high is not None:
        bounds = f"between {low:g} and {high:g}"
    elif low is not None:
        bounds = f"at least {low:g}"
    elif high is not None:
        bounds = f"at most {high:g}"
    else:
        bounds = "an integer of 64 bits"
    return Unfit("out_of_range", f"must be {bounds}")


def _integer(field: Field) -> Reader:
    low = INT64_MIN if field.minimum is None else field.minimum
    high = INT64_MAX if field.maximum is None else min(field.maximum, INT64_MAX)

    def read(value: Any) -> int:
        if type(value) is not int:
            raise mistyped("an integer", value)
        if not low <= value <= high:
            raise _out_of_range(field)
        return value

    return read


def _number(field: Field) -> Reader:
    low = -math.inf if field.minimum is None else field.minimum
    high = math.inf if field.maximum is None else field.maximum

    def read(value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise mistyped("a number", value)
        try:
            number = float(value) + 0.0  # -0.0 becomes 0.0: equal values have equal content
        except OverflowError:
            raise Unfit("not_finite", "is too large for a number") from None
        if not math.isfinite(number):
            raise Unfit("not_finite", "must be finite, not NaN or infinity")
        if not low <= number <= high:
            raise _out_of_range(field)
        return number

    return read


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise mistyped("true or false", value)
    return value
