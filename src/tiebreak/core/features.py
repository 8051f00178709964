"""Features of a ticket: row features by expression, history features from its context."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import orjson
import polars as pl

from tiebreak.core.expressions import Expression, Scope, Symbol, Type, compile_expression
from tiebreak.core.expressions.prepared import Prepared
from tiebreak.core.history import HistoryPlan
from tiebreak.core.scopes import ticket_scope
from tiebreak.core.workflow import FeatureKind, HistoryFeature, RowFeature, Workflow

NUMERIC = frozenset({Type.INTEGER, Type.NUMBER, Type.BOOLEAN})
TEXTUAL = frozenset({Type.TEXT})


@dataclass(frozen=True, slots=True)
class RowError:
    """An expression that could not be evaluated for some rows: where it stands, and why by row."""

    where: str
    codes: pl.Series  # String, null where all is well


def row_errors(codes: Iterable[pl.Series]) -> list[RowError]:
    """The errors in columns of codes, named by where they stand; none of those without any."""
    return [RowError(each.name, each) for each in codes if each.null_count() < each.len()]


class FeaturePlan:
    """How the features of a workflow are computed; row features may use features before them.

    Raises `ExpressionError` when an expression of a feature is mistaken.
    """

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.history = HistoryPlan(workflow)
        self.names = tuple(feature.name for feature in workflow.features)
        base = ticket_scope(workflow)
        symbols = {**base.symbols, **self.history.feature_symbols()}
        self.values = self.history.feature_columns()
        self.errors: list[pl.Expr] = []
        for feature in workflow.features:
            if isinstance(feature, HistoryFeature):
                continue
            row = _compile(feature, Scope(symbols, workflow.calendar))
            self.values.append(row.value.alias(feature.name))
            if row.error is not None:
                self.errors.append(row.error.alias(f"features.{feature.name}"))
            symbols[feature.name] = Symbol(row.type)
        self.scope = Scope(symbols, workflow.calendar)

    def columns(
        self, tickets: pl.DataFrame, context: pl.DataFrame
    ) -> tuple[pl.DataFrame, list[RowError]]:
        """The tickets' columns, `as_of` and every feature, typed as expressions type them.

        `tickets` holds the workflow's fields and `as_of`; `context` the Int64 context columns in
        the same row order, absent columns meaning null. Any number of rows, also none.
        """
        frame = self.given(tickets, context)
        made = self._prepared.evaluate(frame)
        count = len(self.values)
        return frame.hstack(made[:count]), row_errors(made[count:])

    def given(self, tickets: pl.DataFrame, context: pl.DataFrame) -> pl.DataFrame:
        """The tickets' columns and all context columns, from which features are computed."""
        given = {column.name: column for column in context.get_columns()}
        return tickets.hstack(
            [
                given[name] if name in given else _nulls(name, tickets.height)
                for name in self.history.context_columns
            ]
        )

    @property
    def given_schema(self) -> dict[str, pl.DataType]:
        """The types of the columns of `given`."""
        context = dict.fromkeys(self.history.context_columns, pl.Int64())
        return ticket_scope(self.workflow).schema | context

    @cached_property
    def _prepared(self) -> Prepared:
        return Prepared(self.values + self.errors, self.given_schema)

    def definitions(self) -> dict[str, str]:
        """What each feature means, as canonical JSON: equal text, equal values."""
        return {f.name: _definition(self.workflow, f) for f in self.workflow.features}

    def kinds(self) -> dict[str, FeatureKind]:
        """`number`, `category` or `text` of each feature."""
        return {
            feature.name: feature.kind if isinstance(feature, RowFeature) else "number"
            for feature in self.workflow.features
        }


def expected_types(feature: RowFeature) -> frozenset[Type]:
    """The types that the expression of a feature of this kind may have."""
    return NUMERIC if feature.kind == "number" else TEXTUAL


def _compile(feature: RowFeature, scope: Scope) -> Expression:
    return compile_expression(feature.sql, scope, expect=expected_types(feature))


def _nulls(name: str, height: int) -> pl.Series:
    return pl.Series(name, [None], dtype=pl.Int64).new_from_index(0, height).alias(name)


def _definition(workflow: Workflow, feature: RowFeature | HistoryFeature) -> str:
    content = feature.model_dump(mode="json", exclude={"description"})
    if isinstance(feature, HistoryFeature):
        keys = {entity.name: entity.key for entity in workflow.entities}
        content["key"] = keys[feature.entity]
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS).decode()
