"""Reading: a decision, its explanation, a ticket's history, and lists of decisions."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.core.bands import Band
from tiebreak.core.stored import StoredTicket
from tiebreak.core.tickets import ticket_schema
from tiebreak.decisions import answers
from tiebreak.errors import NotFound, Unavailable
from tiebreak.store import reading
from tiebreak.store.decision_ids import NotADecisionId
from tiebreak.store.reading import Filters, Row
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import GuardedRoute, LeanRoute
from tiebreak.web.cursors import read_cursor, write_cursor
from tiebreak.web.moments import Moment
from tiebreak.web.shapes import (
    BandName,
    Decision,
    DecisionPage,
    DecisionSummary,
    Explanation,
    RouteName,
    TicketHistory,
)
from tiebreak.web.site import Site, site_of
from tiebreak.workflows import versions


class DecisionNotFound(NotFound):
    """There is no decision with this id."""

    code = "decision_not_found"


class NotScored(NotFound):
    """No model scored this decision, so there is nothing to explain but its rules."""

    code = "not_scored"


class TicketNotFound(NotFound):
    """There is no such ticket in this workflow."""

    code = "ticket_not_found"


class Unexplainable(Unavailable):
    """The model of this decision cannot be loaded now."""

    code = "model_not_loaded"


class Asked(BaseModel):
    """What a list of decisions is narrowed to, and which page of it."""

    model_config = ConfigDict(extra="forbid")

    band: BandName | None = Field(None, description="Only of this band.")
    route: RouteName | None = Field(None, description="Only of this route.")
    tie: bool | None = Field(None, description="Only ties, or only others.")
    policy: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Only by this policy.")
    since: Moment | None = Field(None, alias="from", description="First `as_of`, included.")
    until: Moment | None = Field(None, alias="to", description="End of `as_of`, excluded.")
    cursor: str | None = Field(None, max_length=100, description="`next_cursor` of a page.")
    limit: int = Field(50, ge=1, le=500, description="Most decisions of a page.")

    def filters(self) -> Filters:
        """The same for the store."""
        return Filters(
            band=None if self.band is None else int(Band.of(self.band)),
            route=self.route,
            is_tie=self.tie,
            policy_hash=self.policy,
            since=self.since,
            until=self.until,
        )


router = APIRouter(prefix="/v1", route_class=LeanRoute, tags=["decisions"])
lists = APIRouter(prefix="/v1", route_class=GuardedRoute, tags=["decisions"])

DECISION = Path(
    description="The decision's id, a UUID of version 7.",
    examples=["019d2f3a-1c00-7000-8000-0123456789ab"],
    pattern="^0[0-9a-f]{7}-[0-9a-f]{4}-7([0-2][0-9a-f]{2}|3[0-9a-d][0-9a-f]|3e[0-7])"
    "-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",  # milliseconds to the year 2527, microseconds to 999
)
WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])
TICKET = Path(description="The ticket's id, as it was submitted; a `/` in it goes as `%2F`.")


@router.get(
    "/decisions/{decision_id}",
    name="get_decision",
    summary="Read a decision",
    responses=described(Decision, 401, 403, 404, 422, 500, 503),
)
async def get_decision(request: Request, decision_id: str = DECISION) -> Response:
    """A decision as it was answered when it was made."""
    site = site_of(request)
    row = await _row(site, decision_id)
    return answered(answers.answer(row, await _feature_names(site, row)))


@router.get(
    "/decisions/{decision_id}/explanation",
    name="get_explanation",
    summary="Explain a decision",
    responses=described(Explanation, 401, 403, 404, 422, 500, 503),
)
async def get_explanation(request: Request, decision_id: str = DECISION) -> Response:
    """Every feature with its value and its part of the model's margin, largest first."""
    site = site_of(request)
    row = await _row(site, decision_id)
    if row["model_status"] != "scored":
        raise NotScored(hint="GET the decision itself; it lists the rules that fired.")
    loaded = await site.service.library.get(row["policy_hash"])
    if loaded.problem is not None:
        raise Unexplainable(hint=loaded.problem.message)
    stored = await reading.ticket(site.db, row["workflow"], row["ticket_id"], row["revision"])
    schema = ticket_schema(loaded.policy.workflow)
    ticket = None
    if stored is not None and stored["content"] is not None:
        ticket = StoredTicket.from_row(stored, schema)
    told = await asyncio.to_thread(answers.explanation, row, ticket, schema, loaded.policy)
    return answered(told)


@router.get(
    "/workflows/{workflow}/tickets/{ticket_id:path}",
    name="get_ticket",
    summary="Read a ticket's history",
    responses=described(TicketHistory, 401, 403, 404, 500, 503),
)
async def get_ticket(
    request: Request, workflow: str = WORKFLOW, ticket_id: str = TICKET
) -> Response:
    """All revisions, decisions and outcomes of a ticket, each list oldest first."""
    site = site_of(request)
    history = await reading.history(site.db, workflow, ticket_id)
    if history is None:
        raise TicketNotFound(hint="Ticket ids are compared letter by letter.")
    told = {
        "workflow": workflow,
        "ticket_id": ticket_id,
        "revisions": [_revision(row) for row in history.revisions],
        "decisions": [_summary(row) for row in history.decisions],
        "outcomes": [_outcome(row) for row in history.outcomes],
    }
    return answered(told)


@lists.get(
    "/workflows/{workflow}/decisions",
    name="list_decisions",
    summary="List decisions",
    response_class=Response,
    responses=described(DecisionPage, 401, 403, 404, 422, 500, 503),
)
async def list_decisions(
    request: Request,
    workflow: Annotated[str, WORKFLOW],
    asked: Annotated[Asked, Query()],
) -> Response:
    """Decisions of a workflow, newest first."""
    site = site_of(request)
    if workflow not in site.service.workflows():
        await versions.latest(site.db, workflow)
    rows = await reading.list_decisions(
        site.db,
        workflow,
        asked.filters(),
        after=read_cursor(asked.cursor) if asked.cursor else None,
        limit=asked.limit + 1,
    )
    page, has_more = rows[: asked.limit], len(rows) > asked.limit
    last = (page[-1]["as_of"], page[-1]["decision_id"]) if has_more else None
    told = {
        "decisions": [_summary(row) for row in page],
        "next_cursor": write_cursor(last) if last else None,
    }
    return answered(told)


async def _row(site: Site, decision_id: str) -> Row:
    try:
        key = uuid.UUID(decision_id)
    except ValueError:
        raise NotADecisionId(decision_id) from None
    row = await reading.decision(site.db, key)
    if row is None:
        raise DecisionNotFound(hint="GET /v1/workflows/{workflow}/decisions lists decisions.")
    return row


async def _feature_names(site: Site, row: Row) -> list[str] | None:
    """The features of the decision's model; None when it had none or it cannot be loaded."""
    if row["model_status"] != "scored":
        return None
    model = (await site.service.library.get(row["policy_hash"])).policy.model
    return None if model is None else [feature.name for feature in model.features]


def _summary(row: Row) -> dict[str, Any]:
    names = DecisionSummary.model_fields.keys()
    return {name: row[name] for name in names} | {
        "decision_id": str(row["decision_id"]),
        "band": Band(row["band"]).label,
    }


def _revision(row: Row) -> dict[str, Any]:
    names = ("revision", "as_of", "received_at", "origin", "actor")
    return {name: row[name] for name in names} | {"fields": _fields(row)}


def _outcome(row: Row) -> dict[str, Any]:
    names = ("ordinal", "kind", "known_at", "given_at", "received_at", "actor")
    return {name: row[name] for name in names} | {"fields": _fields(row)}


def _fields(row: Row) -> dict[str, Any] | None:
    return None if row["content"] is None else orjson.loads(row["content"])
