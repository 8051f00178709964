"""Deciding a stored ticket again, by the policy that is in production now."""

from __future__ import annotations

import asyncio
import re

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.core.bodies import load_object
from tiebreak.core.suggestions import did_you_mean
from tiebreak.decisions import again
from tiebreak.errors import Problem
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import LeanRoute, actor_of
from tiebreak.web.bodies import JSON, check_content_type, read_body
from tiebreak.web.headers import headers_of
from tiebreak.web.problems import TimedOut, refused
from tiebreak.web.shapes import REASON_MAX_LENGTH, Decision
from tiebreak.web.site import site_of

NUMBER = re.compile("^[1-9][0-9]{0,8}$")  # as many as the store counts

router = APIRouter(prefix="/v1/workflows/{workflow}", route_class=LeanRoute, tags=["decisions"])

WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])
TICKET = Path(description="The ticket's id, as it was submitted; a `/` in it goes as `%2F`.")
REVISION = Path(description="Number of the revision.", pattern=NUMBER.pattern, examples=["1"])


@router.post(
    "/tickets/{ticket_id:path}/revisions/{revision}/decisions",
    name="decide_again",
    summary="Decide a ticket again",
    responses=described(Decision, 400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503),
)
async def decide_again(
    request: Request,
    workflow: str = WORKFLOW,
    ticket_id: str = TICKET,
    revision: str = REVISION,
) -> Response:
    """Decide a stored revision by the policy in production now, at its own `as_of` and context.

    The decision is appended with the next `ordinal`; earlier ones stay. When the newest decision
    is by this policy and engine already, it is the answer, so a retry is safe. Submitting the
    ticket again goes on giving the first decision.
    """
    site = site_of(request)
    site.service.schema(workflow)
    if not NUMBER.fullmatch(revision):
        raise again.UnknownRevision(hint="Revisions are counted from 1.", ticket_id=ticket_id)
    check_content_type(headers_of(request), JSON)
    reason = read_reason(await read_body(request, site.settings.api.max_body_bytes))
    wanted = again.Request(str(actor_of(request)), reason)
    try:
        async with asyncio.timeout(site.settings.api.decide_timeout_seconds):
            answer = await site.service.decide_again(workflow, ticket_id, int(revision), wanted)
    except TimeoutError:
        raise TimedOut(hint="Send the same request again.") from None
    request.scope["state"]["decision_id"] = answer["decision_id"]
    return answered(answer)


def read_reason(body: bytes) -> str:
    """The reason in a body `{"reason": …}`. Raises MalformedBody or InvalidInput."""
    loaded = load_object(body, depth=1)
    if isinstance(loaded, tuple):
        raise refused(loaded)
    problems = [
        Problem(name[:80], "unknown_field", f"`{name[:80]}` is not a field", hint)
        for name in list(loaded)[:100]
        if name != "reason"
        for hint in [did_you_mean(name, ("reason",))]
    ]
    reason = loaded.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        problems.append(Problem("reason", "required", "must be a text that says why"))
    elif len(reason) > REASON_MAX_LENGTH:
        text = f"must have {REASON_MAX_LENGTH} characters at most"
        problems.append(Problem("reason", "too_long", text))
    if problems or not isinstance(reason, str):
        raise refused(tuple(problems))
    return reason
