"""From tokens to a syntax tree: a grammar of scalar expressions and nothing else.

Written out rather than borrowed from a general SQL parser, so that what a stored rule means
cannot change with a dependency, and whatever is not in this file cannot be said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal as OneOf
from typing import cast

from tiebreak.core.expressions import syntax
from tiebreak.core.expressions.mistakes import SyntaxMistake
from tiebreak.core.expressions.tokens import Kind, Token, tokenize

MAX_DEPTH = 32
_COMPARISONS = frozenset({"=", "==", "<>", "!=", "<", "<=", ">", ">="})
_CANONICAL = {"==": "=", "!=": "<>"}
_FOREIGN = frozenset(
    """select from where with union exists over interval any all some distinct insert update delete
    create drop copy attach group order limit having join lambda""".split()  # noqa: SIM905
)


def parse(sql: str) -> syntax.Node:
    """The syntax tree of an expression; raises `SyntaxMistake` at the first mistake."""
    return _Parser(tokenize(sql)).parse()


class _Parser:
    """A recursive-descent parser; each method reads one level of precedence, loosest first."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def parse(self) -> syntax.Node:
        if self._token.kind is Kind.END:
            raise SyntaxMistake("the expression is empty", 0)
        node = self._expression()
        if self._at < len(self._tokens) - 1:
            raise self._unexpected("an operator or the end")
        return node

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._token
        self._at += 1
        return token

    def _is(self, *texts: str, ahead: int = 0) -> bool:
        at = min(self._at + ahead, len(self._tokens) - 1)
        token = self._tokens[at]
        return token.kind in (Kind.SYMBOL, Kind.WORD) and token.text in texts

    def _is_name(self, *texts: str, ahead: int = 0) -> bool:
        at = min(self._at + ahead, len(self._tokens) - 1)
        token = self._tokens[at]
        return token.kind is Kind.NAME and not token.is_quoted and token.text in texts

    def _accept(self, *texts: str) -> bool:
        if self._is(*texts):
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(f"`{text.upper()}`")

    def _unexpected(self, wanted: str) -> SyntaxMistake:
        token = self._token
        if token.kind is Kind.END:
            return SyntaxMistake(f"the expression ends where {wanted} is needed", token.position)
        previous = self._tokens[self._at - 1] if self._at else None
        hint = ""
        if token.text in _FOREIGN or (previous and previous.text in _FOREIGN):
            hint = "only scalar expressions over the ticket's fields are possible"
        elif token.text in _COMPARISONS:
            hint = "comparisons do not chain: join them with AND"
        elif token.kind is Kind.WORD:
            hint = f'a field called {token.text} is written "{token.text}"'
        return SyntaxMistake(f"unexpected `{token.text}`: {wanted} is needed", token.position, hint)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise SyntaxMistake(
                f"the expression nests more than {MAX_DEPTH} levels deep",
                self._token.position,
                "split it into features",
            )

    def _expression(self) -> syntax.Node:
        self._enter()
        node = self._chain("or")
        self._depth -= 1
        return node

    def _chain(self, word: OneOf["or", "and", "||"]) -> syntax.Node:
        tighter = {"or": lambda: self._chain("and"), "and": self._not, "||": self._sum}[word]
        operands = [tighter()]
        position = self._token.position
        while self._accept(word):
            operands.append(tighter())
        return operands[0] if len(operands) == 1 else syntax.Chain(word, tuple(operands), position)

    def _not(self) -> syntax.Node:
        if not self._is("not"):
            return self._is_tests()
        self._enter()
        position = self._next().position
        node = syntax.Unary("not", self._not(), position)
        self._depth -= 1
        return node

    def _is_tests(self) -> syntax.Node:
        node = self._predicate()
        while self._is("is"):
            position = self._next().position
            negated = self._accept("not")
            if self._is_name("distinct"):
                self._next()
                if not self._is_name("from"):
                    raise self._unexpected("`FROM`")
                self._next()
                operator = "is not distinct" if negated else "is distinct"
                node = syntax.Binary(operator, node, self._chain("||"), position)
                continue
            if not self._is("null", "true", "false"):
                raise self._unexpected("NULL, TRUE, FALSE or DISTINCT FROM")
            value = {"null": None, "true": True, "false": False}[self._next().text]
            node = syntax.Is(node, value, negated, position)
        return node

    def _predicate(self) -> syntax.Node:
        left = self._chain("||")
        position = self._token.position
        if self._is(*_COMPARISONS):
            operator = self._next().text
            right = self._chain("||")
            if self._is(*_COMPARISONS, "in", "like", "ilike", "between"):
                raise self._unexpected("AND, OR or the end")
            return syntax.Binary(_CANONICAL.get(operator, operator), left, right, position)
        negated = self._is("not") and self._is("in", "like", "ilike", "between", ahead=1)
        if negated:
            self._next()
        if self._accept("in"):
            return syntax.In(left, self._members(), negated, position)
        if self._accept("between"):
            low = self._chain("||")
            self._expect("and")
            return syntax.Between(left, low, self._chain("||"), negated, position)
        if self._is("like", "ilike"):
            folding = self._next().text == "ilike"
            pattern = self._chain("||")
            escape = self._chain("||") if self._accept("escape") else None
            return syntax.Like(left, pattern, escape, folding, negated, position)
        return left

    def _members(self) -> tuple[syntax.Node, ...]:
        self._expect("(")
        return self._list_until_closed()

    def _list_until_closed(self) -> tuple[syntax.Node, ...]:
        nodes = [self._expression()]
        while self._accept(","):
            nodes.append(self._expression())
        self._expect(")")
        return tuple(nodes)

    def _sum(self) -> syntax.Node:
        return self._arithmetic(("+", "-"), self._product)

    def _product(self) -> syntax.Node:
        return self._arithmetic(("*", "/", "//", "%"), self._sign)

    def _arithmetic(
        self, operators: tuple[str, ...], tighter: Callable[[], syntax.Node]
    ) -> syntax.Node:
        node = tighter()
        while self._is(*operators):
            token = self._next()
            node = syntax.Binary(token.text, node, tighter(), token.position)
        return node

    def _sign(self) -> syntax.Node:
        if not self._is("-", "+"):
            return self._postfix()
        token = self._next()
        if self._token.kind is Kind.NUMBER and not self._is("::", ahead=1):
            number = self._number("-" if token.text == "-" else "")
            return syntax.Literal(number, token.position)
        self._enter()
        node = syntax.Unary(cast(OneOf["-", "+"], token.text), self._sign(), token.position)
        self._depth -= 1
        return node

    def _number(self, sign: str) -> int | float:
        token = self._next()
        if token.text.isdigit():
            value = int(sign + token.text)
            if not -(2**63) <= value < 2**63:
                raise SyntaxMistake(
                    f"{sign}{token.text} does not fit in 64 bits",
                    token.position,
                    "write it with a point to make it a number",
                )
            return value
        number = float(sign + token.text)
        if number in (float("inf"), float("-inf")):
            raise SyntaxMistake(f"{token.text} is too large", token.position)
        return number

    def _postfix(self) -> syntax.Node:
        node = self._primary()
        while self._is("::"):
            position = self._next().position
            name = self._type_name()
            node = syntax.Cast(node, name.text, False, position, name.position)
        return node

    def _type_name(self) -> Token:
        if self._token.kind is not Kind.NAME:
            raise self._unexpected("a type")
        return self._next()

    def _primary(self) -> syntax.Node:
        token = self._token
        if token.kind is Kind.NUMBER:
            return syntax.Literal(self._number(""), token.position)
        if token.kind is Kind.TEXT:
            return syntax.Literal(self._next().text, token.position)
        if token.kind is Kind.NAME:
            return self._named()
        if self._is("null", "true", "false"):
            value = {"null": None, "true": True, "false": False}[self._next().text]
            return syntax.Literal(value, token.position)
        if self._is("case"):
            return self._case()
        if self._accept("("):
            node = self._expression()
            self._expect(")")
            return node
        raise self._unexpected("a value")

    def _named(self) -> syntax.Node:
        token = self._next()
        if not token.is_quoted:
            if token.text in ("date", "timestamp") and self._token.kind is Kind.TEXT:
                return syntax.Moment(token.text, self._next().text, token.position)
            if token.text in ("cast", "try_cast") and self._is("("):
                return self._cast(token)
        if not self._accept("("):
            return syntax.Name(token.text, token.position)
        if self._accept(")"):
            return syntax.Call(token.text, (), token.position)
        return syntax.Call(token.text, self._list_until_closed(), token.position)

    def _cast(self, token: Token) -> syntax.Node:
        self._expect("(")
        operand = self._expression()
        if not self._is_name("as"):
            raise self._unexpected("`AS`")
        self._next()
        name = self._type_name()
        self._expect(")")
        is_try = token.text == "try_cast"
        return syntax.Cast(operand, name.text, is_try, token.position, name.position)

    def _case(self) -> syntax.Node:
        self._enter()
        position = self._next().position
        subject = None if self._is("when") else self._expression()
        branches: list[tuple[syntax.Node, syntax.Node]] = []
        while self._accept("when"):
            condition = self._expression()
            self._expect("then")
            branches.append((condition, self._expression()))
        if not branches:
            raise self._unexpected("`WHEN`")
        default = self._expression() if self._accept("else") else None
        self._expect("end")
        self._depth -= 1
        return syntax.Case(subject, tuple(branches), default, position)
