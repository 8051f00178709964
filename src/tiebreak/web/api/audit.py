"""The journal of changes: who changed what, when and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.store import journal
from tiebreak.store.journal import Filters, Row
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import GuardedRoute
from tiebreak.web.cursors import read_cursor, write_cursor
from tiebreak.web.moments import Moment
from tiebreak.web.shapes import AuditPage
from tiebreak.web.site import site_of

NO_NUL = r"^[^\x00]*$"  # Postgres takes none in a text


class Asked(BaseModel):
    """What the journal is narrowed to, and which page of it."""

    model_config = ConfigDict(extra="forbid")

    actor: str | None = Field(
        None,
        max_length=200,
        pattern=NO_NUL,
        description="Only what this person did, by any key; or by one: `person/key_id`.",
    )
    action: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Only this, such as `key.created`."
    )
    since: Moment | None = Field(None, alias="from", description="First time, included.")
    until: Moment | None = Field(None, alias="to", description="End of time, excluded.")
    cursor: str | None = Field(None, max_length=100, description="`next_cursor` of a page.")
    limit: int = Field(50, ge=1, le=500, description="Most entries of a page.")

    def filters(self) -> Filters:
        """The same for the store."""
        return Filters(actor=self.actor, action=self.action, since=self.since, until=self.until)


router = APIRouter(prefix="/v1", route_class=GuardedRoute, tags=["audit"])


@router.get(
    "/audit",
    name="list_audit",
    summary="List changes",
    response_class=Response,
    responses=described(AuditPage, 401, 403, 422, 500, 503),
)
async def list_audit(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """Every change of configuration, release, role, key or data retention, newest first."""
    rows = await journal.entries(
        site_of(request).db,
        asked.filters(),
        after=read_cursor(asked.cursor) if asked.cursor else None,
        limit=asked.limit + 1,
    )
    return answered(entries_page(rows, asked.limit))


def entries_page(rows: Sequence[Row], limit: int) -> dict[str, Any]:
    """A page of entries, from one row more than its limit where there are more."""
    page, has_more = rows[:limit], len(rows) > limit
    last = (page[-1]["at"], page[-1]["audit_id"]) if has_more else None
    return {
        "entries": [_entry(row) for row in page],
        "next_cursor": write_cursor(last) if last else None,
    }


def _entry(row: Row) -> dict[str, Any]:
    return row | {"audit_id": str(row["audit_id"]), "detail": orjson.loads(row["detail"])}
