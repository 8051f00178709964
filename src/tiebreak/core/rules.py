"""Rules: every rule is evaluated for every ticket, always."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tiebreak.core.bands import Band
from tiebreak.core.bare import stacked
from tiebreak.core.expressions import Expression, Type, compile_expression
from tiebreak.core.expressions.prepared import Prepared
from tiebreak.core.features import FeaturePlan, RowError, row_errors
from tiebreak.core.workflow import Cuts, Rule, RuleSet

NO_FLOOR = np.int8(Band.LOW)
NO_CEILING = np.int8(Band.CRITICAL)

Bound = tuple[list[int], NDArray[np.int8]]  # rules, and the band of each


@dataclass(frozen=True, slots=True)
class RulesVerdict:
    """What the rules say of n tickets."""

    fired: NDArray[np.bool_]  # (n, rules), in the order of the rule set
    points: NDArray[np.int64]  # (n,)
    band: NDArray[np.int8]  # (n,)
    hard_floor: NDArray[np.int8]  # (n,), LOW where there is none
    hard_ceiling: NDArray[np.int8]  # (n,), CRITICAL where there is none
    escalates: NDArray[np.bool_]  # (n,)
    errors: list[RowError]  # in features and rules


def cut(
    values: NDArray[np.int64] | NDArray[np.float64], cuts: tuple[float, float, float]
) -> NDArray[np.int8]:
    """The band of each value: how many of the ascending cuts it reaches; NaN reaches none."""
    medium, high, critical = ((values >= edge).astype(np.int8) for edge in cuts)
    return medium + high + critical


class RulesPlan:
    """The compiled rules. Raises `ExpressionError` when a condition is mistaken."""

    def __init__(self, rules: RuleSet, features: FeaturePlan, cuts: Cuts) -> None:
        self.rules = rules.rules
        self._cuts = (cuts.medium, cuts.high, cuts.critical)
        boolean = frozenset({Type.BOOLEAN})
        self._conditions = [
            compile_expression(r.when, features.scope, expect=boolean) for r in self.rules
        ]
        self._fires = [
            _in_force(rule, condition).fill_null(value=False).alias(f"fires.{rule.id}")
            for rule, condition in zip(self.rules, self._conditions, strict=True)
        ]
        self._errors = [
            condition.error.alias(f"rules.{rule.id}")
            for rule, condition in zip(self.rules, self._conditions, strict=True)
            if condition.error is not None
        ]
        self._features = features
        self._points = np.array([rule.points for rule in self.rules], dtype=np.int64)
        self._floor, self._ceiling = self._bound("floor"), self._bound("ceiling")
        self._hard_floor = self._bound("floor", is_hard=True)
        self._hard_ceiling = self._bound("ceiling", is_hard=True)
        self._escalates = np.array([r.effect == "escalate" for r in self.rules], dtype=np.bool_)

    def evaluate(
        self, tickets: pl.DataFrame, context: pl.DataFrame
    ) -> tuple[pl.DataFrame, RulesVerdict]:
        """The frame of `FeaturePlan.columns`, and the verdict on every row of it."""
        given = self._features.given(tickets, context)
        made = self._prepared.evaluate(given)
        features, fires = len(self._features.values), len(self._fires)
        fired = np.empty((given.height, fires), dtype=np.bool_)
        if fires:
            fired[:] = stacked(made[features : features + fires])
        points = fired @ self._points
        ceiling = _lowest(fired, self._ceiling)
        band = np.maximum(
            np.minimum(cut(points, self._cuts), ceiling), _highest(fired, self._floor)
        )
        verdict = RulesVerdict(
            fired=fired,
            points=points,
            band=band,
            hard_floor=_highest(fired, self._hard_floor),
            hard_ceiling=_lowest(fired, self._hard_ceiling),
            escalates=np.asarray((fired & self._escalates).any(axis=1), dtype=np.bool_),
            errors=row_errors(made[features + fires :]),
        )
        return given.hstack(made[:features]), verdict

    def reasons(self, frame: pl.DataFrame, verdict: RulesVerdict) -> list[list[dict[str, Any]]]:
        """The rules that fired for each ticket: id, effect, message and the values they read."""
        reasons: list[list[dict[str, Any]]] = [[] for _ in range(frame.height)]
        columns: dict[str, list[Any]] = {}
        for number, (rule, condition) in enumerate(zip(self.rules, self._conditions, strict=True)):
            rows = np.flatnonzero(verdict.fired[:, number])
            if not rows.size:
                continue
            names = sorted(condition.names)
            for name in names:
                if name not in columns:
                    columns[name] = frame[name].to_list()
            for row in rows.tolist():
                values = {name: columns[name][row] for name in names}
                reasons[row].append(
                    {
                        "rule": rule.id,
                        "effect": rule.effect,
                        "message": rule.message,
                        "values": values,
                    }
                )
        return reasons

    @cached_property
    def _prepared(self) -> Prepared:
        """Features and rules as one, so that both go through one query."""
        features = self._features
        return Prepared(
            [*features.values, *self._fires, *features.errors, *self._errors],
            features.given_schema,
        )

    def _bound(self, effect: str, *, is_hard: bool = False) -> Bound:
        """The rules of this effect and their bands."""
        chosen = [
            i
            for i, rule in enumerate(self.rules)
            if rule.effect == effect and (rule.hard or not is_hard)
        ]
        return chosen, np.array([_band(self.rules[i]) for i in chosen], dtype=np.int8)


def _highest(fired: NDArray[np.bool_], floors: Bound) -> NDArray[np.int8]:
    """The highest floor of the rules that fired, (n,)."""
    chosen, bands = floors
    return np.where(fired[:, chosen], bands, NO_FLOOR).max(axis=1, initial=NO_FLOOR)


def _lowest(fired: NDArray[np.bool_], ceilings: Bound) -> NDArray[np.int8]:
    """The lowest ceiling of the rules that fired, (n,)."""
    chosen, bands = ceilings
    return np.where(fired[:, chosen], bands, NO_CEILING).min(axis=1, initial=NO_CEILING)


def _band(rule: Rule) -> Band:
    assert rule.band is not None, rule.id
    return Band.of(rule.band)


def _in_force(rule: Rule, condition: Expression) -> pl.Expr:
    fires = condition.value
    if rule.valid_from is not None:
        fires = fires & (pl.col("as_of") >= rule.valid_from)
    if rule.valid_to is not None:
        fires = fires & (pl.col("as_of") < rule.valid_to)
    return fires
