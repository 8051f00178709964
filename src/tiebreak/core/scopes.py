"""What expressions of a workflow may read."""

from __future__ import annotations

from tiebreak.core.expressions import Expression, Scope, Symbol, Type, compile_expression
from tiebreak.core.workflow import Entity, EventKind, Field, FieldType, Workflow

KEY_TYPES = frozenset({Type.TEXT, Type.INTEGER, Type.BOOLEAN, Type.DATE})
SYMBOL_TYPES = {
    FieldType.TEXT: Type.TEXT,
    FieldType.CATEGORY: Type.TEXT,
    FieldType.INTEGER: Type.INTEGER,
    FieldType.NUMBER: Type.NUMBER,
    FieldType.BOOLEAN: Type.BOOLEAN,
    FieldType.TIMESTAMP: Type.TIMESTAMP,
    FieldType.DATE: Type.DATE,
    FieldType.TAGS: Type.TAGS,
}


def symbols_of(fields: tuple[Field, ...]) -> dict[str, Symbol]:
    """The fields as symbols of an expression scope, after-the-fact fields marked."""
    return {
        field.name: Symbol(
            type=SYMBOL_TYPES[field.type],
            values=field.values,
            minimum=field.minimum,
            maximum=field.maximum,
            after=field.after,
        )
        for field in fields
    }


def ticket_scope(workflow: Workflow) -> Scope:
    """What an expression about a ticket may read: its fields and `as_of`."""
    symbols = symbols_of(workflow.fields) | {"as_of": Symbol(Type.TIMESTAMP)}
    return Scope(symbols, workflow.calendar)


def event_scope(workflow: Workflow, on: EventKind) -> Scope:
    """What an expression about an event may read: the ticket's and, later, outcome fields."""
    symbols = symbols_of(workflow.fields)
    if on is not EventKind.ARRIVED:
        known = tuple(f.model_copy(update={"after": False}) for f in workflow.outcome_fields)
        symbols |= symbols_of(known)
    return Scope(symbols, workflow.calendar)


def entity_key(workflow: Workflow, entity: Entity) -> list[Expression]:
    """The expressions that identify an entity. Raises `ExpressionError`."""
    scope = event_scope(workflow, EventKind.ARRIVED)
    return [compile_expression(sql, scope, expect=KEY_TYPES) for sql in entity.key]
