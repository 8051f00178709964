"""What is checked of operands before they are compiled into something larger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from tiebreak.core.expressions import logic
from tiebreak.core.expressions.functions import Function, Parameter
from tiebreak.core.expressions.mistakes import Mistake
from tiebreak.core.expressions.operands import Operand, constant, settled
from tiebreak.core.expressions.scope import Type
from tiebreak.core.expressions.times import LocalCalendar, parse_date
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import Calendar

_MOMENTS = (Type.DATE, Type.TIMESTAMP)


def described(operand: Operand) -> str:
    """The operand's type as messages name it."""
    return "NULL" if operand.type is None else operand.type.upper()


class Checks:
    """Type checks and the conversions that go with them; gathers the mistakes."""

    def __init__(self, calendar: Calendar) -> None:
        self._zone = calendar.timezone
        self.calendar = LocalCalendar(calendar)
        self.mistakes: list[Mistake] = []

    def mistake(self, message: str, position: int, hint: str = "") -> None:
        """Notes a mistake."""
        self.mistakes.append(Mistake(message, position, hint))

    def moment(self, text: str, type_: Type, position: int) -> Operand | None:
        """The DATE or TIMESTAMP written in the text."""
        if type_ is Type.DATE:
            value: date | datetime | None = parse_date(text)
            hint = "write it as 2024-12-31"
        else:
            if not self.has_zone(position):
                return None
            value = self.calendar.parse_timestamp(text)
            hint = "write it as 2024-12-31 13:45:00Z, or without the Z for local time"
        if value is None:
            return self.mistake(f"'{text}' is no {type_}", position, hint)
        return constant(value, type_, position)

    def has_zone(self, position: int) -> bool:
        """Whether the calendar's time zone is known; if not, that is a mistake."""
        if self.calendar.has_valid_zone:
            return True
        self.mistake(
            f"the calendar's time zone `{self._zone}` is not known",
            position,
            "such as America/New_York",
        )
        return False

    def condition(self, operand: Operand, where: str) -> Operand | None:
        """The operand as a condition; `where` names what needs one."""
        if operand.type is Type.BOOLEAN:
            return operand
        if operand.type is None:
            return logic.unify((operand,), Type.BOOLEAN)[0]
        hint = "compare it with a value"
        if operand.type is Type.TEXT:
            hint = "compare it with a text: = 'x'"
        return self.mistake(
            f"{where} needs a condition, not {described(operand)}", operand.position, hint
        )

    def numbers(
        self, operator: str, operands: Sequence[Operand], position: int
    ) -> tuple[Operand, Operand] | None:
        """The two operands of an arithmetic operator, a bare NULL in the other's type."""
        only_integers = operator in ("//", "%")
        allowed = (Type.INTEGER,) if only_integers else (Type.INTEGER, Type.NUMBER)
        wrong = [each.type for each in operands if each.type not in (*allowed, None)]
        left, right = operands
        if wrong:
            hint = "cast(… as integer) first" if only_integers else ""
            if any(type_ in _MOMENTS for type_ in wrong):
                hint = "use add_days, add_hours, days_between or hours_between"
            elif operator == "+" and Type.TEXT in wrong:
                hint = "join texts with ||"
            kind = "integers" if only_integers else "numbers"
            message = f"`{operator}` needs {kind}, not {described(left)} and {described(right)}"
            return self.mistake(message, position, hint)
        type_ = left.type or right.type or Type.INTEGER
        unified = [
            logic.unify((each,), type_)[0] if each.type is None else each for each in operands
        ]
        return unified[0], unified[1]

    def comparable(
        self, operands: list[Operand], position: int, *, by_order: bool = False
    ) -> list[Operand] | None:
        """The operands with texts read as dates where the others are; None after a mistake."""
        converted = self._moments(operands)
        if converted is None:
            return None
        if any(operand.type is Type.TAGS for operand in converted):
            return self.mistake(
                "tags cannot be compared", position, "use has(tags, 'x') or has_any(tags, 'x')"
            )
        types = sorted({described(each) for each in converted if each.type is not None})
        if types and logic.common_type(converted) is None:
            hint = _mixing_hint({each.type for each in converted})
            return self.mistake(f"cannot mix {' and '.join(types)}", position, hint)
        return converted if by_order or self._check_values(converted) else None

    def _moments(self, operands: list[Operand]) -> list[Operand] | None:
        wanted = {each.type for each in operands if each.type in _MOMENTS}
        if len(wanted) != 1:
            return operands
        type_ = wanted.pop()
        assert type_ is not None
        converted = [
            self.moment(each.literal, type_, each.position)
            if isinstance(each.literal, str)
            else each
            for each in operands
        ]
        found = [each for each in converted if each is not None]
        return found if len(found) == len(operands) else None

    def _check_values(self, operands: list[Operand]) -> bool:
        """A text that the other side can never have is a slip of the pen."""
        known = [each for each in operands if each.texts is not None and each.literal is None]
        if not known or any(each.texts is None and each.type is not None for each in operands):
            return True
        possible = frozenset[str]().union(*(each.texts or () for each in known))
        before = len(self.mistakes)
        for operand in operands:
            if isinstance(operand.literal, str) and operand.literal not in possible:
                self._never(known[0], operand.literal, possible, operand.position)
        return len(self.mistakes) == before

    def _never(self, subject: Operand, text: str, possible: frozenset[str], position: int) -> None:
        name = f"`{subject.symbol}`" if subject.symbol else "this"
        hint = did_you_mean(text, sorted(possible))
        self.mistake(f"{name} never is '{text}'", position, hint)

    def joint_type(self, operands: Sequence[Operand], where: str, position: int) -> Type | None:
        """The type that a choice among the operands has."""
        type_ = logic.common_type(operands)
        if type_ is Type.TAGS:
            return self.mistake(f"{where} cannot give tags", position)
        if type_ is not None:
            return type_
        types = sorted({described(each) for each in operands if each.type is not None})
        if types:
            hint = _mixing_hint({each.type for each in operands})
            return self.mistake(f"{where} cannot mix {' and '.join(types)}", position, hint)
        return self.mistake(f"{where} is always NULL", position, "cast(NULL as …) gives it a type")

    def arguments(
        self, function: Function, arguments: list[Operand], position: int
    ) -> list[Operand] | None:
        """The arguments in the types that the function takes."""
        if function.is_uniform:
            uniform = self._uniform(function, arguments, position)
            if uniform is None:
                return None
            arguments = uniform
        typed = [self._argument(function, index, each) for index, each in enumerate(arguments)]
        found = [each for each in typed if each is not None]
        if len(found) < len(typed):
            return None
        tags = found[0]
        if tags.type is Type.TAGS and tags.texts is not None:
            for each in found[1:]:
                if each.literal not in tags.texts:
                    self._never(tags, each.literal, tags.texts, each.position)
        return found

    def _uniform(
        self, function: Function, arguments: list[Operand], position: int
    ) -> list[Operand] | None:
        converted = self._moments(arguments)
        if converted is None:
            return None
        type_ = self.joint_type(converted, f"`{function.name}`", position)
        return None if type_ is None else converted

    def _argument(self, function: Function, index: int, operand: Operand) -> Operand | None:
        parameter = function.parameter(index)
        if parameter.is_constant and operand.literal is None:
            return self.mistake(
                f"`{function.name}` needs a constant for {parameter.name}",
                operand.position,
                function.signature,
            )
        if operand.type is None and not function.is_uniform:
            type_ = sorted(parameter.types)[0]
            return logic.unify((operand,), type_)[0]
        if operand.type in parameter.types or operand.type is None:
            return settled(operand) if self._is_within(parameter, operand) else None
        if Type.DATE in parameter.types and isinstance(operand.literal, str):
            return self.moment(operand.literal, Type.DATE, operand.position)
        wanted = " or ".join(type_.upper() for type_ in sorted(parameter.types))
        return self.mistake(
            f"`{function.name}` needs {wanted}, not {described(operand)}",
            operand.position,
            function.signature,
        )

    def _is_within(self, parameter: Parameter, operand: Operand) -> bool:
        if parameter.bounds is None or operand.literal is None:
            return True
        least, most = parameter.bounds
        is_text = isinstance(operand.literal, str)
        if least <= (len(operand.literal) if is_text else operand.literal) <= most:
            return True
        unit = " characters long" if is_text else ""
        message = f"{parameter.name} must be {least} to {most:,}{unit}"
        self.mistake(message, operand.position)
        return False


def _mixing_hint(types: set[Type | None]) -> str:
    if types >= {Type.DATE, Type.TIMESTAMP}:
        return "date(…) gives the local date of a timestamp"
    if Type.TEXT in types:
        return "cast(… as …) turns one into the other; texts are written 'x'"
    return ""
