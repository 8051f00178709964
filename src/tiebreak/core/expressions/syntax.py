"""The syntax tree: every kind of node that an expression can have, and no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal as OneOf

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant as written: TRUE, 12, 0.5, 'text', NULL."""

    value: Value
    position: int


@dataclass(frozen=True, slots=True)
class Moment:
    """DATE '…' or TIMESTAMP '…'."""

    kind: OneOf["date", "timestamp"]
    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Name:
    """A column."""

    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x`, `+x` or `NOT x`."""

    operator: OneOf["-", "+", "not"]
    operand: Node
    position: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic or a comparison, `position` being the operator's."""

    operator: str
    left: Node
    right: Node
    position: int


@dataclass(frozen=True, slots=True)
class Chain:
    """AND, OR or `||` over two or more operands."""

    operator: OneOf["and", "or", "||"]
    operands: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Is:
    """`x IS [NOT] NULL`, TRUE or FALSE."""

    operand: Node
    value: bool | None
    is_negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class In:
    """`x [NOT] IN (a, b, …)`."""

    operand: Node
    members: tuple[Node, ...]
    is_negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Between:
    """`x [NOT] BETWEEN low AND high`."""

    operand: Node
    low: Node
    high: Node
    is_negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Like:
    """`x [NOT] LIKE|ILIKE 'pattern' [ESCAPE 'c']`."""

    operand: Node
    pattern: Node
    escape: Node | None
    is_folding: bool
    is_negated: bool
    position: int


@dataclass(frozen=True, slots=True)
class Case:
    """`CASE [subject] WHEN … THEN … [ELSE …] END`."""

    subject: Node | None
    branches: tuple[tuple[Node, Node], ...]
    default: Node | None
    position: int


@dataclass(frozen=True, slots=True)
class Cast:
    """`cast(x AS type)`, `x::type` or `try_cast(x AS type)`."""

    operand: Node
    type_name: str
    is_try: bool
    position: int
    type_position: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function call."""

    name: str
    arguments: tuple[Node, ...]
    position: int


Node = (
    Literal | Moment | Name | Unary | Binary | Chain | Is | In | Between | Like | Case | Cast | Call
)
