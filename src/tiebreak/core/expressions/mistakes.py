"""Mistakes in an expression's text, gathered so that all are told at once."""

from __future__ import annotations

from dataclasses import dataclass

from tiebreak.errors import InvalidInput, Problem


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: what is wrong, at which character of the text (from 0), and the next step."""

    message: str
    position: int
    hint: str = ""


class ExpressionError(InvalidInput):
    """The expression is not valid."""

    code = "invalid_expression"

    def __init__(self, sql: str, mistakes: tuple[Mistake, ...]) -> None:
        self.sql = sql
        self.mistakes = mistakes
        super().__init__(
            "; ".join(f"{each.message} (character {each.position + 1})" for each in mistakes),
            hint=mistakes[0].hint,
            problems=tuple(
                Problem(f"character {each.position + 1}", self.code, each.message, each.hint)
                for each in mistakes
            ),
        )


class SyntaxMistake(Exception):
    """Carries the first mistake of syntax: what follows it cannot be understood."""

    def __init__(self, message: str, position: int, hint: str = "") -> None:
        self.mistake = Mistake(message, position, hint)
        super().__init__(message)
