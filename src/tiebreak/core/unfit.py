"""The refusal of a value by its field."""

from __future__ import annotations

from datetime import date, datetime


class Unfit(ValueError):
    """A value that its field cannot hold."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def mistyped(expected: str, value: object) -> Unfit:
    """The refusal of a value of another type."""
    kind = _KINDS.get(type(value), type(value).__name__)
    return Unfit("wrong_type", f"must be {expected}, not {kind}")


_KINDS: dict[type, str] = {
    str: "a text",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "a list",
    datetime: "a timestamp",
    date: "a date",
}
