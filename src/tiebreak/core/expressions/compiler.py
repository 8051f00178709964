"""From a syntax tree to typed columns: names, types and every mistake at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from tiebreak.core.expressions import arithmetic, casts, comparison, logic, syntax, texts
from tiebreak.core.expressions.checks import Checks, described
from tiebreak.core.expressions.columns import column
from tiebreak.core.expressions.functions import FUNCTIONS
from tiebreak.core.expressions.mistakes import Mistake, SyntaxMistake
from tiebreak.core.expressions.operands import Operand, constant, settled
from tiebreak.core.expressions.scope import Scope, Type
from tiebreak.core.suggestions import did_you_mean

MAX_TREE_DEPTH = 100
MAX_COMPILED_BYTES = 200_000


class Compiler:
    """Compiles one expression; a part with a mistake is None and is not complained of again."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._checks = Checks(scope.calendar)
        self._depth = 0
        self.names: set[str] = set()

    @property
    def mistakes(self) -> list[Mistake]:
        """Every mistake found so far."""
        return self._checks.mistakes

    def compile(self, node: syntax.Node) -> Operand | None:
        """The operand of a node and all below it."""
        self._depth += 1
        try:
            if self._depth > MAX_TREE_DEPTH:
                return self._checks.mistake(
                    f"the expression nests more than {MAX_TREE_DEPTH} levels deep",
                    node.position,
                    "split it into features",
                )
            operand = self._compile(node)
            return None if operand is None else self._sized(operand)
        finally:
            self._depth -= 1

    def _sized(self, operand: Operand) -> Operand | None:
        """Polars expands shared parts, so nesting can make a short text a huge plan."""
        parts = [part for part in (operand.value, operand.error) if part is not None]
        if sum(len(part.meta.serialize()) for part in parts) > MAX_COMPILED_BYTES:
            return self._checks.mistake(
                "the expression is too complex", operand.position, "split it into features"
            )
        return operand if operand.error is None else replace(operand, error=_folded(operand.error))

    def _compile(self, node: syntax.Node) -> Operand | None:
        match node:
            case syntax.Literal():
                return self._literal(node)
            case syntax.Moment():
                type_ = Type.DATE if node.kind == "date" else Type.TIMESTAMP
                return self._checks.moment(node.text, type_, node.position)
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

    def _name(self, node: syntax.Name) -> Operand | None:
        symbols = self._scope.symbols
        symbol = symbols.get(node.name)
        if symbol is None:
            hint = did_you_mean(node.name, (name for name in symbols if not symbols[name].after))
            return self._checks.mistake(f"unknown field `{node.name}`", node.position, hint)
        if symbol.after:
            return self._checks.mistake(
                f"`{node.name}` is known only after the fact",
                node.position,
                "use fields that are known when the ticket is submitted",
            )
        self.names.add(node.name)
        return column(node.name, symbol, node.position)

    def _unary(self, node: syntax.Unary) -> Operand | None:
        operand = self.compile(node.operand)
        if operand is None:
            return None
        if node.operator == "not":
            condition = self._checks.condition(operand, "NOT")
            return condition and replace(comparison.negated(condition), position=node.position)
        if operand.type not in (Type.INTEGER, Type.NUMBER):
            return self._checks.mistake(
                f"`{node.operator}` needs a number, not {described(operand)}", node.position
            )
        return arithmetic.negate(operand, node.position) if node.operator == "-" else operand

    def _binary(self, node: syntax.Binary) -> Operand | None:
        operands = self._all((node.left, node.right))
        if operands is None:
            return None
        if node.operator in ("+", "-", "*", "/", "//", "%"):
            numbers = self._checks.numbers(node.operator, operands, node.position)
            return numbers and arithmetic.compute(node.operator, *numbers, node.position)
        return self._compare(node.operator, operands[0], operands[1], node.position)

    def _compare(
        self, operator: str, left: Operand, right: Operand, position: int
    ) -> Operand | None:
        by_order = operator in ("<", "<=", ">", ">=")
        pair = self._checks.comparable([left, right], position, by_order=by_order)
        if pair is None:
            return None
        type_ = logic.common_type(pair) or Type.BOOLEAN
        if type_ is Type.BOOLEAN and by_order:
            return self._checks.mistake("conditions have no order", position, "use = or <>")
        return comparison.compare(operator, pair[0], pair[1], type_, position)

    def _chain(self, node: syntax.Chain) -> Operand | None:
        operands = self._all(node.operands)
        if node.operator == "||":
            return None if operands is None else self._concatenate(operands, node.position)
        if operands is None:
            return None
        word = node.operator.upper()
        conditions = [self._checks.condition(operand, word) for operand in operands]
        found = [each for each in conditions if each is not None]
        if len(found) < len(conditions):
            return None
        return logic.junction(node.operator, found, node.position)

    def _concatenate(self, operands: list[Operand], position: int) -> Operand | None:
        wrong = [each for each in operands if each.type not in (Type.TEXT, None)]
        for each in wrong:
            self._checks.mistake(
                f"`||` joins texts, not {described(each)}", each.position, "cast(… as text) first"
            )
        return None if wrong else texts.concatenate(operands, position)

    def _is(self, node: syntax.Is) -> Operand | None:
        operand = self.compile(node.operand)
        if operand is not None and node.value is not None:
            operand = self._checks.condition(operand, "IS TRUE" if node.value else "IS FALSE")
        if operand is None:
            return None
        return logic.test_is(operand, node.value, node.is_negated, node.position)

    def _in(self, node: syntax.In) -> Operand | None:
        operands = self._all((node.operand, *node.members))
        operands = operands and self._checks.comparable(operands, node.position)
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
            return self._checks.mistake(
                f"LIKE needs a text, not {described(operand)}",
                node.position,
                "cast(… as text) first",
            )
        escape = self._like_text(node.escape) if node.escape is not None else None
        pattern = self._like_text(node.pattern)
        if pattern is None or (node.escape is not None and escape is None):
            return None
        if len(pattern) > comparison.MAX_PATTERN:
            return self._checks.mistake(
                f"the pattern has more than {comparison.MAX_PATTERN} characters",
                node.pattern.position,
            )
        if escape is not None and len(escape) != 1:
            return self._checks.mistake("ESCAPE needs one character", node.position)
        try:
            found = comparison.like(operand, pattern, escape, node.is_folding, node.position)
        except ValueError as error:
            return self._checks.mistake(str(error), node.pattern.position)
        return comparison.negated(found) if node.is_negated else found

    def _like_text(self, node: syntax.Node) -> str | None:
        if isinstance(node, syntax.Literal) and isinstance(node.value, str):
            return node.value
        return self._checks.mistake(
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
        if (type_ := self._checks.joint_type([*found, default], "CASE", node.position)) is None:
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
                conditions.append(self._checks.condition(operand, "WHEN"))
            else:
                conditions.append(self._compare("=", subject, operand, when.position))
        found = [condition for condition in conditions if condition is not None]
        return found if len(found) == len(conditions) else None

    def _cast(self, node: syntax.Cast) -> Operand | None:
        operand = self.compile(node.operand)
        to = casts.TYPE_NAMES.get(node.type_name)
        if to is None:
            known = ("integer", "number", "text", "boolean", "date")
            hint = did_you_mean(node.type_name, known)
            return self._checks.mistake(
                f"unknown type `{node.type_name}`", node.type_position, hint
            )
        if operand is None:
            return None
        if operand.type is Type.TIMESTAMP and not self._checks.has_zone(node.position):
            return None
        found = casts.cast(operand, to, node.position, self._checks.calendar)
        if found is None:
            return self._checks.mistake(
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
            return self._checks.mistake(f"unknown function `{node.name}`", node.position, hint)
        arguments = self._all(node.arguments)
        if not function.accepts(len(node.arguments)):
            return self._checks.mistake(
                f"`{node.name}` cannot take {len(node.arguments)} arguments",
                node.position,
                function.signature,
            )
        if function.needs_zone and not self._checks.has_zone(node.position):
            return None
        if function.needs_business_days and not self._checks.calendar.has_business_days:
            return self._checks.mistake("the calendar has no business days", node.position)
        typed = arguments and self._checks.arguments(function, arguments, node.position)
        if not typed:
            return None
        try:
            return function.build(typed, self._checks.calendar, node.position)
        except SyntaxMistake as error:
            self.mistakes.append(error.mistake)
            return None


def _folded(error: pl.Expr) -> pl.Expr | None:
    """An error that reads no column occurs for every row or for none."""
    if error.meta.root_names():
        return error
    code = pl.select(error).item()
    return None if code is None else pl.lit(code)
