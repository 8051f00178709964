"""The expression language: SQL scalar expressions, parsed, type-checked, compiled to columns.

`docs/expressions.md` fixes what every operator and function means.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from tiebreak.core.expressions.compiler import Compiler
from tiebreak.core.expressions.mistakes import ExpressionError, Mistake, SyntaxMistake
from tiebreak.core.expressions.operands import Operand, settled
from tiebreak.core.expressions.parsing import parse
from tiebreak.core.expressions.scope import Scope, Symbol, Type

__all__ = [
    "Expression",
    "ExpressionError",
    "Mistake",
    "Scope",
    "Symbol",
    "Type",
    "compile_expression",
]


@dataclass(frozen=True, eq=False)
class Expression:
    """A compiled expression.

    `value` gives one value of `type` for each row. `error` gives a String for each row: null
    where all is well, else a short stable reason such as "overflow", and there the value is
    null. It is None when no row can have an error. Both are as long as the frame, also when
    they read none of its columns. `names` are the columns read.
    """

    sql: str
    type: Type
    names: frozenset[str]
    value: pl.Expr
    error: pl.Expr | None


def compile_expression(
    sql: str, scope: Scope, *, expect: frozenset[Type] | None = None
) -> Expression:
    """The compiled form of an SQL scalar expression over the names in scope.

    Evaluating it is total: it never raises, whatever the rows of a frame with these columns
    hold, provided that NUMBER columns are finite, timestamps and dates lie in the years that
    fields can have, and declared minima and maxima hold. Each row's result depends on that row
    alone. With `expect` any other type of result is a mistake.

    Raises `ExpressionError` with every mistake (after a mistake of syntax, with that one).
    """
    compiler = Compiler(scope)
    try:
        operand = compiler.compile(parse(sql))
    except SyntaxMistake as error:
        raise ExpressionError(sql, (error.mistake,)) from None
    mistakes = sorted(compiler.mistakes, key=lambda each: each.position)
    if operand is not None and not mistakes:
        mistakes = _check_result(operand, expect)
    type_ = None if operand is None else operand.type
    if operand is None or type_ is None or mistakes:
        raise ExpressionError(sql, tuple(mistakes))
    operand = settled(operand)
    return Expression(
        sql=sql,
        type=type_,
        names=frozenset(compiler.names),
        value=_full_length(operand.value, type_.dtype),
        error=None if operand.error is None else _full_length(operand.error, pl.String()),
    )


def _check_result(operand: Operand, expect: frozenset[Type] | None) -> list[Mistake]:
    if operand.type is None:
        return [Mistake("the expression is always NULL", 0, "cast(NULL as …) gives it a type")]
    if expect is None or operand.type in expect:
        return []
    wanted = " or ".join(sorted(type_.upper() for type_ in expect))
    hint = "compare it with something" if expect == frozenset({Type.BOOLEAN}) else ""
    return [Mistake(f"the result is {operand.type.upper()}, not {wanted}", 0, hint)]


def _full_length(expr: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A part that reads no column is one value: repeat it for every row, and for no row."""
    if expr.meta.root_names():
        return expr
    return pl.repeat(pl.select(expr).item(), pl.len(), dtype=dtype)
