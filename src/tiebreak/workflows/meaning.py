"""The expressions of a workflow, each compiled where it stands against what it may read."""

from __future__ import annotations

from tiebreak.core.expressions import (
    Expression,
    ExpressionError,
    Scope,
    Symbol,
    Type,
    compile_expression,
)
from tiebreak.core.features import expected_types
from tiebreak.core.history import HistoryPlan
from tiebreak.core.scopes import KEY_TYPES, event_scope, symbols_of, ticket_scope
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import EventKind, Field, HistoryFeature, RowFeature
from tiebreak.workflows.draft import Draft
from tiebreak.workflows.source import Place, Scalar

BOOLEAN = frozenset({Type.BOOLEAN})
NUMERIC = frozenset({Type.INTEGER, Type.NUMBER, Type.BOOLEAN})
TIMESTAMP = frozenset({Type.TIMESTAMP})


def check_meaning(draft: Draft) -> None:
    """Add every mistake in an expression to the draft."""
    _Meaning(draft).check()


class _Meaning:
    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._workflow = draft.workflow
        self._calendar = draft.workflow.calendar

    def check(self) -> None:
        self._names()
        self._label()
        self._events()
        self._entities()
        for feature in self._workflow.features:
            if isinstance(feature, HistoryFeature):
                self._history(feature)
        scope = self._row_features()
        for name in self._names_in("rules"):  # also those with other mistakes
            self._compile(scope, BOOLEAN, "rules", name, "when")

    def _compile(
        self, scope: Scope, expect: frozenset[Type] | None, *path: str | int
    ) -> Expression | None:
        """Compile the expression at a path; one that reads a mistaken definition is not judged."""
        node = self._draft.node(*path)
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            return None
        try:
            return compile_expression(node.value, scope, expect=expect)
        except ExpressionError as error:
            for mistake in error.mistakes:
                if not self._is_spoiled(mistake.message, scope):
                    place = node.place_of(mistake.position)
                    self._add(place, mistake.message, mistake.hint)
            return None

    def _is_spoiled(self, message: str, scope: Scope) -> bool:
        return any(f"`{name}`" in message for name in self._draft.broken - scope.symbols.keys())

    def _add(self, place: Place, message: str, hint: str = "") -> None:
        self._draft.mistakes.add(place, "expression", message, hint)

    def _names(self) -> None:
        """A name that SQL keeps for itself could never be read."""
        for section in ("fields", "outcome_fields", "features"):
            for name in self._names_in(section):
                if name in self._draft.broken:
                    continue
                scope = Scope({name: Symbol(Type.INTEGER)}, self._calendar)
                try:
                    is_readable = compile_expression(name, scope).names == frozenset({name})
                except ExpressionError:
                    is_readable = False
                if not is_readable:
                    message = f"`{name}` is a word of SQL and cannot be read in expressions"
                    self._add(self._draft.key_place(section, name), message, "choose another name")
                    self._draft.broken.add(name)

    def _names_in(self, section: str) -> list[str]:
        return list(getattr(self._draft.node(section), "entries", {}))

    def _label(self) -> None:
        known = _known(self._workflow.outcome_fields)
        self._compile(Scope(symbols_of(known), self._calendar), BOOLEAN, "label", "sql")

    def _events(self) -> None:
        fields = _known((*self._workflow.fields, *self._workflow.outcome_fields))
        scope = Scope(symbols_of(fields), self._calendar)
        outcome = [field.name for field in self._workflow.outcome_fields]
        for index, event in enumerate(self._workflow.events):
            self._compile(scope, TIMESTAMP, "events", index, "known_at")
            self._compile(scope, BOOLEAN, "events", index, "when")
            for position, name in enumerate(event.fields):
                if name not in outcome and name not in self._draft.broken:
                    place = self._draft.place("events", index, "fields", position)
                    self._add(place, f"unknown outcome field `{name}`", did_you_mean(name, outcome))

    def _entities(self) -> None:
        arrived = event_scope(self._workflow, EventKind.ARRIVED)
        scope = Scope({**self._after(), **arrived.symbols}, self._calendar)
        for entity in self._workflow.entities:
            whole = ("entities", entity.name)
            is_one = isinstance(self._draft.node(*whole), Scalar)
            parts = [whole] if is_one else [(*whole, i) for i in range(len(entity.key))]
            compiled = [self._compile(scope, KEY_TYPES, *part) for part in parts]
            if None in compiled:
                spoiled = (f for f in self._workflow.features if isinstance(f, HistoryFeature))
                self._draft.broken |= {f.name for f in spoiled if f.entity == entity.name}

    def _history(self, feature: HistoryFeature) -> None:
        scope = event_scope(self._workflow, feature.on)
        if feature.on is EventKind.ARRIVED:
            scope = Scope({**self._after(), **scope.symbols}, self._calendar)
        for key, expect in (("where", BOOLEAN), ("among", BOOLEAN), ("value", NUMERIC)):
            if getattr(feature, key) is None:
                continue
            if self._compile(scope, expect, "features", feature.name, key) is None:
                self._draft.broken.add(feature.name)

    def _row_features(self) -> Scope:
        """Check row features from the top down; the scope that rules read."""
        symbols = {**self._after(), **ticket_scope(self._workflow).symbols}
        symbols = self._history_symbols() | symbols
        for feature in self._workflow.features:
            if not isinstance(feature, RowFeature):
                continue
            expect = expected_types(feature)
            path = ("features", feature.name)
            path = path if isinstance(self._draft.node(*path), Scalar) else (*path, "sql")
            compiled = self._compile(Scope(symbols, self._calendar), expect, *path)
            if compiled is None:
                self._draft.broken.add(feature.name)
            else:
                symbols.setdefault(feature.name, Symbol(compiled.type))
        scope = Scope(symbols, self._calendar)
        read = {feature.name for feature in self._workflow.features}
        for name in self._names_in("features"):
            if name not in read:  # it has other mistakes, and so no kind
                self._compile(scope, None, "features", name, "sql")
        return scope

    def _history_symbols(self) -> dict[str, Symbol]:
        sound = tuple(
            feature
            for feature in self._workflow.features
            if isinstance(feature, HistoryFeature) and feature.name not in self._draft.broken
        )
        return HistoryPlan(self._workflow.model_copy(update={"features": sound})).feature_symbols()

    def _after(self) -> dict[str, Symbol]:
        """Outcome fields as what must not be read: naming one says why, not just `unknown`."""
        marked = (f.model_copy(update={"after": True}) for f in self._workflow.outcome_fields)
        return symbols_of(tuple(marked))


def _known(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    return tuple(field.model_copy(update={"after": False}) for field in fields)
