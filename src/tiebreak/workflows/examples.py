"""Examples: tickets decided by the rules alone, and what was expected of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, cast

import polars as pl

from tiebreak.core.bands import Band
from tiebreak.core.decide import Decisions, decide
from tiebreak.core.expressions import Type
from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import Policy
from tiebreak.core.scopes import entity_key
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.tickets import Schema
from tiebreak.core.unfit import Unfit
from tiebreak.core.values import reader
from tiebreak.core.workflow import Field, FieldType, HistoryFeature, RowFeature, Workflow
from tiebreak.workflows.draft import Draft, Example, read_moment

_ANY_HASH = 2**62  # far from the audit sample; no expectation depends on it
_COUNTED = ("count", "sum", "open")  # 0 where nothing is known


def run_examples(draft: Draft) -> tuple[str, ...]:
    """Decide every example; adds mistakes to the draft and gives the rules that none fires.

    The draft's workflow and rules must be free of mistakes.
    """
    workflow = with_history_as_fields(draft.workflow)
    schema = Schema(tuple(field for field in workflow.fields if not field.after))
    cases: list[tuple[int, Example, dict[str, Any], datetime]] = []
    for index, example in draft.examples:
        read = _Case(draft, workflow, schema, index, example).read()
        if read is not None:
            cases.append((index, example, *read))
    never = {rule.id for rule in draft.rules.rules}
    if cases:
        tickets = schema.frame([values for _, _, values, _ in cases]).with_columns(
            pl.Series("as_of", [as_of for *_, as_of in cases], dtype=pl.Datetime("us", "UTC")),
            pl.Series("ticket_hash", [_ANY_HASH] * len(cases), dtype=pl.Int64),
        )
        decisions = decide(tickets, tickets.select(), Policy.build(workflow, draft.rules))
        for row, (index, example, *_) in enumerate(cases):
            never -= _compare(draft, decisions, row, index, example)
    return tuple(rule.id for rule in draft.rules.rules if rule.id in never)


def with_history_as_fields(workflow: Workflow) -> Workflow:
    """The workflow with its history features as fields: given with the ticket, not computed."""
    types = HistoryPlan(workflow).feature_symbols()
    given = tuple(
        Field(
            name=name,
            type=FieldType.INTEGER if symbol.type is Type.INTEGER else FieldType.NUMBER,
        )
        for name, symbol in types.items()
    )
    rest = tuple(f for f in workflow.features if isinstance(f, RowFeature))
    return workflow.model_copy(update={"fields": workflow.fields + given, "features": rest})


class _Case:
    """One example on its way to a ticket."""

    def __init__(
        self, draft: Draft, workflow: Workflow, schema: Schema, index: int, example: Example
    ) -> None:
        self._draft = draft
        self._workflow = workflow
        self._schema = schema
        self._path: tuple[str | int, ...] = ("examples", index)
        self._example = example
        self._before = len(draft.mistakes.found)

    def read(self) -> tuple[dict[str, Any], datetime] | None:
        """The ticket's values, history included, and its `as_of`; None when it has mistakes."""
        values = self._fields()
        values |= self._history(values)
        as_of = self._as_of(values)
        self._rules()
        is_sound = len(self._draft.mistakes.found) == self._before
        return (values, as_of) if is_sound and as_of is not None else None

    def _fields(self) -> dict[str, Any]:
        plain = Schema(tuple(f for f in self._draft.workflow.fields if not f.after))
        values = plain.check(self._example.fields)
        if isinstance(values, dict):
            return values
        for problem in values:
            path = (*self._path, "fields", problem.where)
            is_key = problem.code == "unknown_field"
            place = self._draft.key_place(*path) if is_key else self._draft.place(*path)
            message = f"`{problem.where}` {problem.message}"
            if is_key:
                message = f"unknown field `{problem.where}`"
            self._draft.mistakes.add(place, problem.code, message, problem.hint)
        return {}

    def _history(self, values: dict[str, Any]) -> dict[str, Any]:
        given = self._nothing_known(values)
        fields = {field.name: field for field in self._workflow.fields}
        known = [f.name for f in self._draft.workflow.features if isinstance(f, HistoryFeature)]
        for name, value in self._example.history.items():
            path = (*self._path, "history", name)
            if name not in known:
                place, hint = self._draft.key_place(*path), did_you_mean(name, known)
                message = f"unknown history feature `{name}`"
                self._draft.mistakes.add(place, "unknown_feature", message, hint)
                continue
            try:
                given[name] = None if value is None else reader(fields[name], is_lax=False)(value)
            except Unfit as unfit:
                message = f"`{name}` {unfit.message}"
                self._draft.mistakes.add(self._draft.place(*path), unfit.code, message, unfit.hint)
        return given

    def _nothing_known(self, values: dict[str, Any]) -> dict[str, Any]:
        keys = {
            entity.name: {name for key in entity_key(self._workflow, entity) for name in key.names}
            for entity in self._workflow.entities
        }
        counted = (
            feature.name
            for feature in self._draft.workflow.features
            if isinstance(feature, HistoryFeature)
            and feature.aggregate in _COUNTED
            and all(values.get(name) is not None for name in keys[feature.entity])
        )
        return dict.fromkeys(counted, 0)

    def _as_of(self, values: dict[str, Any]) -> datetime | None:
        text = self._example.as_of
        if text is None:
            return cast("datetime | None", values.get(self._workflow.time))
        try:
            return read_moment(text, self._workflow.calendar)
        except Unfit as unfit:
            place = self._draft.place(*self._path, "as_of")
            self._draft.mistakes.add(place, unfit.code, f"`as_of` {unfit.message}", unfit.hint)
            return None

    def _rules(self) -> None:
        known = [rule.id for rule in self._draft.rules.rules]
        for position, name in enumerate(self._example.rules or ()):
            if name not in known:
                place = self._draft.place(*self._path, "rules", position)
                hint = did_you_mean(name, known)
                self._draft.mistakes.add(place, "unknown_rule", f"unknown rule `{name}`", hint)


def _compare(
    draft: Draft, decisions: Decisions, row: int, index: int, example: Example
) -> set[str]:
    """Add what differs from the expectation; gives the rules that fired."""
    fired = {
        rule.id
        for rule, fires in zip(draft.rules.rules, decisions.rules.fired[row], strict=True)
        if fires
    }
    title = f"example “{example.name}”"
    band = Band(int(decisions.arbitration.band[row])).label
    if band != example.band:
        points = int(decisions.rules.points[row])
        message = f"{title} came out {band}, not {example.band}: {points} points, fired: "
        message += ", ".join(sorted(fired)) or "no rule"
        draft.mistakes.add(draft.place("examples", index, "band"), "example_band", message)
    if example.rules is not None and set(example.rules) != fired:
        missing, extra = set(example.rules) - fired, fired - set(example.rules)
        parts = [f"did not fire: {', '.join(sorted(missing))}"] if missing else []
        parts += [f"fired unexpectedly: {', '.join(sorted(extra))}"] if extra else []
        place = draft.place("examples", index, "rules")
        draft.mistakes.add(place, "example_rules", f"{title}: {'; '.join(parts)}")
    return fired
