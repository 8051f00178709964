"""The API's description: routes as they are, with the tickets of every workflow in production."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from tiebreak.access.acts import ACCESS
from tiebreak.core.tickets import MAX_REVISION, MAX_TICKET_ID, Schema
from tiebreak.core.workflow import Field, FieldType
from tiebreak.web.bodies import LINES, TABLES
from tiebreak.web.release_shapes import (
    ApprovalRequest,
    BacktestRequest,
    CanaryMove,
    CanaryShare,
    Countersignature,
    DemotionRequest,
    GateQuestion,
    Promotion,
    Proposal,
    Rollback,
    ShadowStart,
    Stop,
    Withdrawal,
)
from tiebreak.web.shapes import (
    BatchLine,
    CancelTraining,
    DecideAgain,
    ProblemDocument,
    Readiness,
    StartTraining,
)

Json = dict[str, Any]
REF = "#/components/schemas/"

DESCRIPTION = """\
Tiebreak scores work tickets for risk. Rules and a model each give a verdict; when they disagree
the ticket goes to people. Every decision is explained, durable and replayable.

Send an API key as `Authorization: Bearer tbk_…`. Errors are
[RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem documents: `code` is stable, `hint`
says what to do. A 503 carries `Retry-After`; sending the same ticket again is always safe. A
revoked key is refused within five seconds.
"""

TAGS = [
    {"name": "decisions", "description": "Decide tickets; read decisions and explanations."},
    {"name": "outcomes", "description": "Tell what really happened."},
    {"name": "workflows", "description": "What is decided, and by which version."},
    {"name": "training", "description": "Train models; follow and end training runs."},
    {"name": "models", "description": "What the models are made of, and where they are in use."},
    {"name": "releases", "description": "Bring a changed policy into production, and go back."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "operations", "description": "Health and numbers; no key needed."},
]

BATCH = (
    "NDJSON: one submission a line, as for one ticket. Tables: one ticket a row, columns as the "
    "workflow's fields (or their `source`) and the column of its ticket id; other columns are "
    "passed over."
)

REQUESTS: Mapping[str, type[BaseModel]] = {
    "decide_again": DecideAgain,
    "start_training": StartTraining,
    "cancel_training": CancelTraining,
    "start_backtest": BacktestRequest,
    "cancel_backtest": Stop,
    "propose_release": Proposal,
    "rebase_release": Proposal,
    "withdraw_release": Withdrawal,
    "start_shadow": ShadowStart,
    "stop_shadow": Stop,
    "start_canary": CanaryShare,
    "step_canary": CanaryMove,
    "hold_canary": Stop,
    "stop_canary": Stop,
    "evaluate_gates": GateQuestion,
    "approve_release": ApprovalRequest,
    "promote_release": Promotion,
    "rollback_production": Rollback,
    "demote_production": DemotionRequest,
    "countersign_demotion": Countersignature,
}

_BINARY: Json = {"type": "string", "format": "binary"}
_TABLE_SCHEMAS: Mapping[str, Json] = {
    "text/csv": {"type": "string"},
    "application/vnd.apache.arrow.stream": _BINARY,
    "application/vnd.apache.parquet": _BINARY,
}
_EXAMPLES: Mapping[FieldType, object] = {
    FieldType.TEXT: "Text",
    FieldType.CATEGORY: "example",
    FieldType.BOOLEAN: True,
    FieldType.TIMESTAMP: datetime(2026, 3, 2, 14, 30, tzinfo=UTC).isoformat(),
    FieldType.DATE: "2026-03-02",
}


@dataclass(frozen=True, slots=True)
class WorkflowShape:
    """What a workflow takes."""

    name: str
    ticket: Schema
    outcome: Schema


def routes_description(app: FastAPI) -> Json:
    """The description without workflows."""
    document = get_openapi(
        title="Tiebreak",
        version=version("tiebreak"),
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        license_info=None,
    )
    components: Json = document.setdefault("components", {})
    schemas: Json = components.setdefault("schemas", {})
    for model in (ProblemDocument, BatchLine, Readiness, *REQUESTS.values()):
        _add_model(schemas, model)
    components["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "tbk_<key id>_<secret>"}
    }
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operation in operations(document):
        _secure(operation)
        answers: Json = operation["responses"]
        if "application/json" in answers.get("422", {}).get("content", {}):
            del answers["422"]  # the framework's own, which no route gives
    return document


def describe(routes: Json, shapes: list[WorkflowShape]) -> Json:
    """The whole description: `routes` with the tickets and outcomes of these workflows."""
    bodies = {name: _bodies(name, shapes) for name in ("decide_ticket", "record_outcome")}
    document = {**routes, "components": {**routes["components"]}}
    document["components"]["schemas"] = dict(routes["components"]["schemas"])
    for shape in shapes:
        document["components"]["schemas"] |= _workflow_schemas(shape)
    document["paths"] = {
        path: {method: _with_body(operation, bodies) for method, operation in item.items()}
        for path, item in routes["paths"].items()
    }
    return document


def operations(document: Json) -> list[Json]:
    """All operations of a description."""
    return [operation for item in document["paths"].values() for operation in item.values()]


def example(field: Field) -> object:
    """A valid value of the field."""
    match field.type:
        case FieldType.INTEGER | FieldType.NUMBER:
            number = field.minimum if field.minimum is not None else min(1, field.maximum or 1)
            return int(number) if field.type is FieldType.INTEGER else number
        case FieldType.TAGS:
            return [field.values[0]] if field.values else ["example"]
        case FieldType.CATEGORY if field.values:
            return field.values[0]
        case FieldType.TEXT:
            return "Text"[: field.max_length]
        case _:
            return _EXAMPLES[field.type]


def component(workflow: str, kind: str) -> str:
    """The name of a workflow's component: `locate`, `Ticket` → `LocateTicket`."""
    return "".join(part.capitalize() for part in workflow.split("_")) + kind


def _workflow_schemas(shape: WorkflowShape) -> Json:
    ticket, outcome = component(shape.name, "Ticket"), component(shape.name, "OutcomeFields")
    return {
        ticket: {"title": ticket, **shape.ticket.json_schema()},
        outcome: {"title": outcome, **shape.outcome.json_schema()},
        component(shape.name, "Submission"): {
            "title": component(shape.name, "Submission"),
            "type": "object",
            "additionalProperties": False,
            "required": ["ticket_id", "fields"],
            "properties": {
                "ticket_id": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_TICKET_ID,
                    "description": "Printable characters without spaces around them.",
                },
                "revision": {
                    "type": ["integer", "null"],
                    "minimum": 1,
                    "maximum": MAX_REVISION,
                    "description": "Null: the next, or the latest when the content is equal.",
                },
                "fields": {"$ref": REF + ticket},
            },
        },
        component(shape.name, "Outcome"): {
            "title": component(shape.name, "Outcome"),
            "type": "object",
            "additionalProperties": False,
            "required": ["kind"],
            "properties": {
                "kind": {"type": "string", "enum": ["outcome", "closed", "acted"]},
                "given_at": {
                    "type": ["string", "null"],
                    "format": "date-time",
                    "description": "When the sender learned it; never later than now.",
                },
                "fields": {"$ref": REF + outcome},
            },
        },
    }


def _bodies(operation: str, shapes: list[WorkflowShape]) -> Json:
    kind = "Submission" if operation == "decide_ticket" else "Outcome"
    refs = [{"$ref": REF + component(shape.name, kind)} for shape in shapes]
    examples = {shape.name: {"value": _example(shape, kind)} for shape in shapes}
    schema: Json = {"anyOf": refs} if refs else {"type": "object"}
    return {"application/json": {"schema": schema, "examples": examples}}


def _example(shape: WorkflowShape, kind: str) -> Json:
    if kind == "Submission":
        fields = {field.name: example(field) for field in shape.ticket.fields}
        return {"ticket_id": "example-1", "fields": fields}
    return {"kind": "closed", "fields": {}}


def _with_body(operation: Json, bodies: Json) -> Json:
    name: str = operation["operationId"]
    content: Json
    if name == "decide_batch":
        content = {
            LINES[0]: {"schema": {"type": "string"}},
            **{kind: {"schema": _TABLE_SCHEMAS[kind]} for kind in TABLES},
        }
        return {**operation, "requestBody": _required(content, BATCH)}
    if name in REQUESTS:
        model = REQUESTS[name]
        content = {"application/json": {"schema": {"$ref": REF + model.__name__}}}
        return {**operation, "requestBody": _required(content, model.__doc__ or "")}
    if name not in bodies:
        return operation
    text = "Of the workflow's own kind; the examples are by workflow."
    return {**operation, "requestBody": _required(bodies[name], text)}


def _required(content: Json, description: str) -> Json:
    return {"required": True, "description": description, "content": content}


def _secure(operation: Json) -> None:
    roles = sorted(ACCESS[operation["operationId"]])
    operation["security"] = [{"apiKey": []}] if roles else []
    if roles:
        operation["x-roles"] = [str(role) for role in roles]
        text = operation.get("description", "")
        operation["description"] = f"{text}\n\nRoles: {', '.join(roles)}.".strip()


def _add_model(schemas: Json, model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template=REF + "{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
