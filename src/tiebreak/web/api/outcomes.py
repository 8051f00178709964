"""Telling what really happened to a ticket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.core.bodies import load_object
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.tickets import Schema, outcome_schema
from tiebreak.errors import Problem
from tiebreak.store import outcomes
from tiebreak.store.outcomes import Kind, Recorded, Report
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.bodies import JSON, check_content_type, read_body
from tiebreak.web.headers import headers_of
from tiebreak.web.problems import refused
from tiebreak.web.shapes import OutcomeReceipt
from tiebreak.web.site import site_of

KINDS: tuple[Kind, ...] = ("outcome", "closed", "acted")
ENVELOPE = ("kind", "given_at", "fields")

router = APIRouter(prefix="/v1/workflows/{workflow}", route_class=LeanRoute, tags=["outcomes"])

WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])
TICKET = Path(description="The ticket's id, as it was submitted; a `/` in it goes as `%2F`.")


@router.post(
    "/tickets/{ticket_id:path}/outcomes",
    name="record_outcome",
    summary="Tell an outcome",
    status_code=201,
    responses=described(
        OutcomeReceipt, 400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503, status=201
    ),
)
async def record_outcome(
    request: Request, workflow: str = WORKFLOW, ticket_id: str = TICKET
) -> Response:
    """Store what became known of a ticket: its outcome, that it was closed, that someone acted.

    It is known from now on, whenever it happened. The same report again is stored once.
    """
    site = site_of(request)
    schema = site.service.schema(workflow)
    policy = site.service.policy(workflow)
    check_content_type(headers_of(request), JSON)
    body = await read_body(request, site.settings.api.max_body_bytes)
    told_schema = outcome_schema(policy.workflow)
    report = read_report(told_schema, ticket_id, body)
    async with site.outcomes_lane.unit() as unit:
        (result,) = await outcomes.record(
            unit,
            workflow,
            policy.features_plan.history,
            schema,
            told_schema,
            [report],
            actors=[str(actor_of(request))],
            received_at=datetime.now(UTC),
            keyring=site.keyring,
        )
    if not isinstance(result, Recorded):
        raise result
    receipt = {
        "workflow": workflow,
        "ticket_id": ticket_id,
        "ordinal": result.ordinal,
        "kind": report.kind,
        "known_at": result.known_at,
    }
    return answered(receipt, 201)


def read_report(schema: Schema, ticket_id: str, body: bytes) -> Report:
    """The report in a body `{"kind": …, "given_at": …?, "fields": {…}?}`.

    Only an `outcome` must give the required outcome fields. Raises MalformedBody or InvalidInput
    with every problem.
    """
    loaded = load_object(body, depth=2)
    if isinstance(loaded, tuple):
        raise refused(loaded)
    problems = [
        Problem(name[:80], "unknown_field", f"`{name[:80]}` is not a field", hint)
        for name in list(loaded)[:100]
        if name not in ENVELOPE
        for hint in [did_you_mean(name, ENVELOPE)]
    ]
    kind, fields = loaded.get("kind"), loaded.get("fields", {})
    if kind not in KINDS:
        problems.append(Problem("kind", "not_allowed", f"must be one of {', '.join(KINDS)}"))
    given_at = _moment(loaded.get("given_at"), problems)
    values: dict[str, Any] = {}
    if not isinstance(fields, dict):
        problems.append(Problem("fields", "wrong_type", "must be an object"))
    elif fields or kind == "outcome":
        checked = schema.check(cast("dict[str, Any]", fields), "fields.")
        if isinstance(checked, tuple):
            problems += checked
        else:
            values = checked
    if problems:
        raise refused(tuple(problems))
    return Report(ticket_id, cast("Kind", kind), values, given_at)


def _moment(given: object, problems: list[Problem]) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given) if isinstance(given, str) else None
        if moment is not None and moment.utcoffset() is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    hint = "such as 2026-03-02T14:30:00Z"
    problems.append(Problem("given_at", "not_a_time", "must be a time with its zone", hint))
    return None
