"""The pipeline: decide(tickets, context, policy) -> decisions. Columns in, columns out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from tiebreak.core.arbitrate import Arbitration, ModelVerdict, arbitrate
from tiebreak.core.policy import ModelStatus, Policy
from tiebreak.core.rules import RulesVerdict, cut
from tiebreak.core.steps import Steps, finished
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import Schema


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions on n tickets, in their order; arrays of shape (n,) unless said otherwise."""

    policy: Policy
    frame: pl.DataFrame  # fields, `as_of` and features, as rules and model saw them
    rules: RulesVerdict
    model: ModelVerdict | None
    model_status: ModelStatus
    arbitration: Arbitration

    @property
    def height(self) -> int:
        """How many tickets were decided."""
        return self.frame.height

    def reasons(self) -> list[list[dict[str, Any]]]:
        """The rules that fired for each ticket, with the values that made them fire."""
        return self.policy.rules_plan.reasons(self.frame, self.rules)

    def errors(self) -> list[list[dict[str, str]]]:
        """For each ticket the expressions that could not be evaluated, and why."""
        found: list[list[dict[str, str]]] = [[] for _ in range(self.height)]
        for error in self.rules.errors:
            for row, code in enumerate(error.codes.to_list()):
                if code is not None:
                    found[row].append({"where": error.where, "code": code})
        return found


def decide(tickets: pl.DataFrame, context: pl.DataFrame, policy: Policy) -> Decisions:
    """Decide every ticket by the policy: a pure function, the only one that decides.

    `tickets` holds the workflow's fields, `as_of` (Datetime us UTC) and `ticket_hash` (Int64,
    keyed and uniform over [0, 2^63)); `context` the Int64 context columns, rows in the same
    order. The bits of a ticket's decision depend on its row alone, never on batch or order.
    """
    return finished(deciding(tickets, context, policy))


def deciding(tickets: pl.DataFrame, context: pl.DataFrame, policy: Policy) -> Steps[Decisions]:
    """`decide` in two steps: the rules, then the model and what comes of both."""
    frame, rules = policy.rules_plan.evaluate(tickets, context)
    yield
    model = _score(frame, policy)
    arbitration = arbitrate(
        rules,
        model,
        tickets["ticket_hash"].to_numpy(),
        policy.workflow.knobs,
        has_tiebreak=policy.parts.tiebreak_version is not None,
    )
    return Decisions(
        policy=policy,
        frame=frame,
        rules=rules,
        model=model,
        model_status=policy.model_status,
        arbitration=arbitration,
    )


def decide_stored(tickets: Sequence[StoredTicket], schema: Schema, policy: Policy) -> Decisions:
    """Decide stored tickets, whose columns are made first."""
    return decide(*columns(tickets, schema, policy.features_plan.history.context_columns), policy)


def _score(frame: pl.DataFrame, policy: Policy) -> ModelVerdict | None:
    model = policy.model
    if model is None:
        return None
    x = model.matrix(frame)
    margins = model.margins(x)
    exact = margins.astype(np.float64)
    return ModelVerdict(
        margin=exact,
        score=model.scores(margins),
        band=cut(exact, policy.margin_cuts),
        contributions=model.contributions(x),
        base_value=model.base_value,
    )
