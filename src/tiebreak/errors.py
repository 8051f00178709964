"""The error families. Every error a user can meet belongs to one of them.

The family decides HTTP status, exit code and whether a retry may help; the tables that say so
stand at the edges (`web.problems`, `cli.exits`). The class docstring is the default message,
`code` is stable, `fields` are typed facts for machines, `hint` is the next step for people.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

FieldValue = str | int | float | bool | None | list[str] | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an input: where it is, what is wrong, and how to mend it."""

    where: str
    code: str
    message: str
    hint: str = ""

    def as_dict(self) -> dict[str, str]:
        """The problem as plain data, for JSON answers and rejects files."""
        return {
            "where": self.where,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class TiebreakError(Exception):
    """Something went wrong."""

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str = "",
        problems: tuple[Problem, ...] = (),
        **fields: FieldValue,
    ) -> None:
        self.message = message or inspect.cleandoc(type(self).__doc__ or "")
        self.hint = hint
        self.problems = problems
        self.fields: Mapping[str, FieldValue] = fields
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidInput(TiebreakError):
    """The input is not valid."""

    code = "invalid_input"


class NotFound(TiebreakError):
    """There is no such thing."""

    code = "not_found"


class Conflict(TiebreakError):
    """The request contradicts what is already stored."""

    code = "conflict"


class NotAllowed(TiebreakError):
    """The actor may not do this."""

    code = "not_allowed"


class Unavailable(TiebreakError):
    """A part that is needed does not answer now; a retry may succeed."""

    code = "unavailable"


class IntegrityFailure(TiebreakError):
    """Stored bytes are not what was sealed or signed."""

    code = "integrity_failure"
