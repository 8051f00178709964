"""From a syntax tree to typed columns: names, types and every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

import polars as pl

from tiebreak.core.expressions import arithmetic, casts, comparison, logic, syntax, texts
from tiebreak.core.expressions.functions import FUNCTIONS, Function
from tiebreak.core.expressions.mistakes import Mistake
from tiebreak.core.expressions.operands import (
    EPOCH,
    FLOAT_MAX,
    INT_MAX,
    INT_MIN,
    Operand,
    constant,
    settled,
)
from tiebreak.core.expressions.scope import Scope, Symbol, Type
from tiebreak.core.expressions.times import LocalCalendar, parse_date
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.times import FIRST_YEAR, LAST_YEAR

MAX_TREE_DEPTH = 100
MAX_COMPILED_BYTES = 200_000
_MOMENTS = (Type.DATE, Type.TIMESTAMP)
# Fields are checked in their own time zone, so a day of slack on either side.
_FIRST = date(FIRST_YEAR, 1, 1).toordinal() - EPOCH - 1.0
_LAST = date(LAST_YEAR, 12, 31).toordinal() - EPOCH + 2.0


def described(operand: Operand) -> str:
    """The operand's type as messages name it."""
    return "NULL" if operand.type is None else operand.type.upper()


class Compiler:
    """Compiles one expression; a part with a mistake is None and is not complained of again."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._calendar = LocalCalendar(scope.calendar)
        self._depth = 0
        self.mistakes: list[Mistake] = []
        self.names: set[str] = set()

    def compile(self, node: syntax.Node) -> Operand | None:
        """The operand of a node and all below it."""
        self._depth += 1
        try:
            if self._depth > MAX_TREE_DEPTH:
                return self._mistake(
                    f"the expression nests more than {MAX_TREE_DEPTH} levels deep",
                    node.position,
                    "split it into features",
                )
            operand = self._compile(node)
            return None if operand is None else self._sized(operand)
        finally:
            self._depth -= 1

    def _mistake(self, message: str, position: int, hint: str = "") -> None:
        self.mistakes.append(Mistake(message, position, hint))

    def _sized(self, operand: Operand) -> Operand | None:
        """Polars expands shared parts, so nesting can make a short text a huge plan."""
        parts = (operand.value, operand.error)
        if sum(len(part.meta.serialize()) for part in parts if part is not None) > (
            MAX_COMPILED_BYTES
        ):
            return self._mistake(
                "the expression is too complex", operand.position, "split it into features"
            )
        return operand

    def _compile(self, node: syntax.Node) -> Operand | None:
        match node:
            case syntax.Literal():
                return self._literal(node)
            case syntax.Moment():
                type_ = Type.DATE if node.kind == "date" else Type.TIMESTAMP
                return self._moment(node.text, type_, node.position)
            case syntax.Name():
                return self._name(node)
            case syntax.Unary():
                return self._unary(node)
            case syntax.Binary():
                return self._binary(node)
            case syntax.Chain():
                return self._chain(node)
            case syntax.Is():
                return self._is(node)
            case syntax.In():
                return self._in(node)
            case syntax.Between():
                return self._between(node)
            case syntax.Like():
                return self._like(node)
            case syntax.Case():
                return self._case(node)
            case syntax.Cast():
                return self._cast(node)
            case syntax.Call():
                return self._call(node)

    def _all(self, nodes: Sequence[syntax.Node]) -> list[Operand] | None:
        """The operands of all nodes; None when one of them has a mistake."""
        compiled = [self.compile(node) for node in nodes]
        found = [operand for operand in compiled if operand is not None]
        return found if len(found) == len(nodes) else None

    def _literal(self, node: syntax.Literal) -> Operand:
        value = node.value
        if value is None:
            return Operand(None, pl.lit(None), node.position)
        types: dict[type, Type] = {
            bool: Type.BOOLEAN,
            int: Type.INTEGER,
            float: Type.NUMBER,
            str: Type.TEXT,
        }
        return constant(value, types[type(value)], node.position)

    def _moment(self, text: str, type_: Type, position: int) -> Operand | None:
        if type_ is Type.DATE:
            value: date | datetime | None = parse_date(text)
            hint = "write it as 2024-12-31"
        else:
            if not self._has_zone(position):
                return None
            value = self._calendar.parse_timestamp(text)
            hint = "write it as 2024-12-31 13:45:00Z, or without the Z for local time"
        if value is None:
            return self._mistake(f"'{text}' is no {type_}", position, hint)
        return constant(value, type_, position)

    def _has_zone(self, position: int) -> bool:
        if self._calendar.has_valid_zone:
            return True
        zone = self._scope.calendar.timezone
        self._mistake(
            f"the calendar's time zone `{zone}` is not known", position, "such as America/New_York"
        )
        return False

    def _name(self, node: syntax.Name) -> Operand | None:
        symbols = self._scope.symbols
        symbol = symbols.get(node.name)
        if symbol is None:
            hint = did_you_mean(node.name, (name for name in symbols if not symbols[name].after))
            return self._mistake(f"unknown field `{node.name}`", node.position, hint)
        if symbol.after:
            return self._mistake(
                f"`{node.name}` is known only after the fact",
                node.position,
                "use fields that are known when the ticket is submitted",
            )
        self.names.add(node.name)
        return _column(node.name, symbol, node.position)

    def _unary(self, node: syntax.Unary) -> Operand | None:
        operand = self.compile(node.operand)
        if operand is None:
            return None
        if node.operator == "not":
            condition = self._condition(operand, "NOT")
            return condition and replace(comparison.negated(condition), position=node.position)
        if operand.type not in (Type.INTEGER, Type.NUMBER):
            return self._mistake(
                f"`{node.operator}` needs a number, not {described(operand)}", node.position
            )
        return arithmetic.negate(operand, node.position) if node.operator == "-" else operand

    def _condition(self, operand: Operand, where: str) -> Operand | None:
        if operand.type is Type.BOOLEAN:
            return operand
        if operand.type is None:
            return logic.unify((operand,), Type.BOOLEAN)[0]
        hint = "compare it with a value"
        if operand.type is Type.TEXT:
            hint = "compare it with a text: = 'x'"
        return self._mistake(
            f"{where} needs a condition, not {described(operand)}", operand.position, hint
        )

    def _binary(self, node: syntax.Binary) -> Operand | None:
        operands = self._all((node.left, node.right))
        if operands is None:
            return None
        if node.operator in ("+", "-", "*", "/", "//", "%"):
            return self._arithmetic(node, operands)
        return self._compare(node.operator, operands[0], operands[1], node.position)

    def _arithmetic(self, node: syntax.Binary, operands: list[Operand]) -> Operand | None:
        allowed = (Type.INTEGER, Type.NUMBER)
        hint = ""
        if node.operator in ("//", "%"):
            allowed = (Type.INTEGER,)
            hint = "cast(… as integer) first"
        numeric = {operand.type for operand in operands if operand.type in allowed}
        wrong = [each for each in operands if each.type not in (*allowed, None)]
        if any(each.type in _MOMENTS for each in wrong):
            hint = "use add_days, add_hours, days_between or hours_between"
        elif node.operator == "+" and any(each.type is Type.TEXT for each in wrong):
            hint = "join texts with ||"
        if wrong:
            kind = "integers" if len(allowed) == 1 else "numbers"
            left, right = (described(operand) for operand in operands)
            message = f"`{node.operator}` needs {kind}, not {left} and {right}"
            return self._mistake(message, node.position, hint)
        type_ = Type.NUMBER if Type.NUMBER in numeric or not numeric else Type.INTEGER
        typed = [
            logic.unify((each,), numeric_type(each, type_))[0] if each.type is None else each
            for each in operands
        ]
        return arithmetic.compute(node.operator, typed[0], typed[1], node.position)

    def _compare(
        self, operator: str, left: Operand, right: Operand, position: int
    ) -> Operand | None:
        pair = self._comparable([left, right], position)
        if pair is None:
            return None
        type_ = logic.common_type(pair) or Type.BOOLEAN
        if type_ is Type.BOOLEAN and operator in ("<", "<=", ">", ">="):
            return self._mistake("conditions have no order", position, "use = or <>")
        return comparison.compare(operator, pair[0], pair[1], type_, position)

    def _comparable(self, operands: list[Operand], position: int) -> list[Operand] | None:
        """The operands with texts read as dates where the others are; None after a mistake."""
        converted = self._moments(operands)
        if converted is None:
            return None
        if any(operand.type is Type.TAGS for operand in converted):
            return self._mistake(
                "tags cannot be compared", position, "use has(tags, 'x') or has_any(tags, 'x')"
            )
        types = sorted({described(each) for each in converted if each.type is not None})
        if types and logic.common_type(converted) is None:
            hint = _mixing_hint({each.type for each in converted})
            return self._mistake(f"cannot mix {' and '.join(types)}", position, hint)
        return converted if self._check_values(converted) else None

    def _moments(self, operands: list[Operand]) -> list[Operand] | None:
        wanted = {each.type for each in operands if each.type in _MOMENTS}
        if len(wanted) != 1:
            return operands
        type_ = wanted.pop()
        assert type_ is not None
        converted = [
            self._moment(each.literal, type_, each.position)
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
        self._mistake(f"{name} never is '{text}'", position, hint)

    def _chain(self, node: syntax.Chain) -> Operand | None:
        operands = self._all(node.operands)
        if node.operator == "||":
            return None if operands is None else self._concatenate(operands, node.position)
        if operands is None:
            return None
        word = node.operator.upper()
        conditions = [self._condition(operand, word) for operand in operands]
        found = [each for each in conditions if each is not None]
        if len(found) < len(conditions):
            return None
        return logic.junction(node.operator, found, node.position)

    def _concatenate(self, operands: list[Operand], position: int) -> Operand | None:
        wrong = [each for each in operands if each.type not in (Type.TEXT, None)]
        for each in wrong:
            self._mistake(
                f"`||` joins texts, not {described(each)}", each.position, "cast(… as text) first"
            )
        return None if wrong else texts.concatenate(operands, position)

    def _is(self, node: syntax.Is) -> Operand | None:
        operand = self.compile(node.operand)
        if operand is not None and node.value is not None:
            operand = self._condition(operand, "IS TRUE" if node.value else "IS FALSE")
        if operand is None:
            return None
        return logic.test_is(operand, node.value, node.is_negated, node.position)

    def _in(self, node: syntax.In) -> Operand | None:
        operands = self._all((node.operand, *node.members))
        operands = operands and self._comparable(operands, node.position)
        if operands is None:
            return None
        type_ = logic.common_type(operands) or Type.BOOLEAN
        found = comparison.member(operands[0], operands[1:], type_, node.position)
        return comparison.negated(found) if node.is_negated else found

    def _between(self, node: syntax.Between) -> Operand | None:
        operands = self._all((node.operand, node.low, node.high))
        if operands is None:
            return None
        subject, low, high = operands
        bounds = [
            self._compare(">=", subject, low, node.position),
            self._compare("<=", subject, high, node.position),
        ]
        if bounds[0] is None or bounds[1] is None:
            return None
        found = logic.junction("and", [bounds[0], bounds[1]], node.position)
        return comparison.negated(found) if node.is_negated else found

    def _like(self, node: syntax.Like) -> Operand | None:
        operand = self.compile(node.operand)
        if operand is None:
            return None
        if operand.type is None:
            operand = logic.unify((operand,), Type.TEXT)[0]
        if operand.type is not Type.TEXT:
            return self._mistake(
                f"LIKE needs a text, not {described(operand)}",
                node.position,
                "cast(… as text) first",
            )
        escape = self._like_text(node.escape) if node.escape is not None else None
        pattern = self._like_text(node.pattern)
        if pattern is None or (node.escape is not None and escape is None):
            return None
        if len(pattern) > comparison.MAX_PATTERN:
            return self._mistake(
                f"the pattern has more than {comparison.MAX_PATTERN} characters",
                node.pattern.position,
            )
        if escape is not None and len(escape) != 1:
            return self._mistake("ESCAPE needs one character", node.position)
        try:
            found = comparison.like(operand, pattern, escape, node.is_folding, node.position)
        except ValueError as error:
            return self._mistake(str(error), node.pattern.position)
        return comparison.negated(found) if node.is_negated else found

    def _like_text(self, node: syntax.Node) -> str | None:
        if isinstance(node, syntax.Literal) and isinstance(node.value, str):
            return node.value
        return self._mistake(
            "LIKE needs a pattern that is written out",
            node.position,
            "use contains, starts_with or ends_with to compare two fields",
        )

    def _case(self, node: syntax.Case) -> Operand | None:
        conditions = self._case_conditions(node)
        results = [self.compile(result) for _, result in node.branches]
        default = (
            Operand(None, pl.lit(None), node.position)
            if node.default is None
            else self.compile(node.default)
        )
        if conditions is None or default is None:
            return None
        found = [result for result in results if result is not None]
        if len(found) < len(results):
            return None
        if (type_ := self._joint_type([*found, default], "CASE", node.position)) is None:
            return None
        return logic.choose(conditions, found, default, type_, node.position)

    def _case_conditions(self, node: syntax.Case) -> list[Operand] | None:
        subject = None if node.subject is None else self.compile(node.subject)
        conditions: list[Operand | None] = []
        for when, _ in node.branches:
            operand = self.compile(when)
            if operand is None or (node.subject is not None and subject is None):
                conditions.append(None)
            elif subject is None:
                conditions.append(self._condition(operand, "WHEN"))
            else:
                conditions.append(self._compare("=", subject, operand, when.position))
        found = [condition for condition in conditions if condition is not None]
        return found if len(found) == len(conditions) else None

    def _joint_type(self, operands: Sequence[Operand], where: str, position: int) -> Type | None:
        type_ = logic.common_type(operands)
        if type_ is Type.TAGS:
            return self._mistake(f"{where} cannot give tags", position)
        if type_ is not None:
            return type_
        types = sorted({described(each) for each in operands if each.type is not None})
        if types:
            hint = _mixing_hint({each.type for each in operands})
            return self._mistake(f"{where} cannot mix {' and '.join(types)}", position, hint)
        return self._mistake(f"{where} is always NULL", position, "cast(NULL as …) gives it a type")

    def _cast(self, node: syntax.Cast) -> Operand | None:
        operand = self.compile(node.operand)
        to = casts.TYPE_NAMES.get(node.type_name)
        if to is None:
            known = ("integer", "number", "text", "boolean", "date")
            hint = did_you_mean(node.type_name, known)
            return self._mistake(f"unknown type `{node.type_name}`", node.type_position, hint)
        if operand is None:
            return None
        if operand.type is Type.TIMESTAMP and not self._has_zone(node.position):
            return None
        found = casts.cast(operand, to, node.position, self._calendar)
        if found is None:
            return self._mistake(
                f"{described(operand)} cannot be cast to {to.upper()}", node.position
            )
        if node.is_try:
            return replace(found, error=settled(operand).error)
        return found

    def _call(self, node: syntax.Call) -> Operand | None:
        function = FUNCTIONS.get(node.name)
        if function is None:
            hint = did_you_mean(node.name, FUNCTIONS)
            self._all(node.arguments)
            return self._mistake(f"unknown function `{node.name}`", node.position, hint)
        arguments = self._all(node.arguments)
        if not function.accepts(len(node.arguments)):
            return self._mistake(
                f"`{node.name}` cannot take {len(node.arguments)} arguments",
                node.position,
                function.signature,
            )
        if function.needs_zone and not self._has_zone(node.position):
            return None
        if function.needs_business_days and not self._calendar.has_business_days:
            return self._mistake("the calendar has no business days", node.position)
        typed = arguments and self._arguments(function, arguments, node.position)
        return None if not typed else function.build(typed, self._calendar, node.position)

    def _arguments(
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
        type_ = self._joint_type(converted, f"`{function.name}`", position)
        return None if type_ is None else converted

    def _argument(self, function: Function, index: int, operand: Operand) -> Operand | None:
        parameter = function.parameter(index)
        if parameter.is_constant and operand.literal is None:
            return self._mistake(
                f"`{function.name}` needs a constant for {parameter.name}",
                operand.position,
                function.signature,
            )
        if operand.type is None and not function.is_uniform:
            type_ = sorted(parameter.types)[0]
            return logic.unify((operand,), type_)[0]
        if operand.type in parameter.types or operand.type is None:
            return settled(operand)
        if Type.DATE in parameter.types and isinstance(operand.literal, str):
            return self._moment(operand.literal, Type.DATE, operand.position)
        wanted = " or ".join(type_.upper() for type_ in sorted(parameter.types))
        return self._mistake(
            f"`{function.name}` needs {wanted}, not {described(operand)}",
            operand.position,
            function.signature,
        )


def numeric_type(operand: Operand, type_: Type) -> Type:
    """The numeric type that a bare NULL takes beside a value of this type."""
    return type_ if operand.type is None else operand.type


def _mixing_hint(types: set[Type | None]) -> str:
    if types >= {Type.DATE, Type.TIMESTAMP}:
        return "date(…) gives the local date of a timestamp"
    if Type.TEXT in types:
        return "cast(… as …) turns one into the other; texts are written 'x'"
    return ""


def _column(name: str, symbol: Symbol, position: int) -> Operand:
    texts_ = frozenset(symbol.values) if symbol.values else None
    operand = Operand(symbol.type, pl.col(name), position, texts=texts_, symbol=name)
    match symbol.type:
        case Type.INTEGER:
            low = INT_MIN if symbol.minimum is None else max(INT_MIN, int(symbol.minimum))
            high = INT_MAX if symbol.maximum is None else min(INT_MAX, int(symbol.maximum))
            return replace(operand, low=low, high=high)
        case Type.NUMBER:
            low = -FLOAT_MAX if symbol.minimum is None else symbol.minimum
            high = FLOAT_MAX if symbol.maximum is None else symbol.maximum
            return replace(operand, low=low, high=high)
        case Type.DATE | Type.TIMESTAMP:
            return replace(operand, low=_FIRST, high=_LAST)
        case _:
            return operand
