"""Training runs of a workflow: start one, follow it, end it, and read what came of them."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from tiebreak.audit.lanes import Lane
from tiebreak.core.bodies import load_object
from tiebreak.errors import InvalidInput, Problem
from tiebreak.training import queue, records
from tiebreak.training.fit import Parameters
from tiebreak.training.requests import Request
from tiebreak.training.runs import Trainer, UnknownRun
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import GuardedRoute, LeanRoute, actor_of
from tiebreak.web.bodies import JSON, check_content_type, read_body
from tiebreak.web.cursors import read_cursor, write_cursor
from tiebreak.web.headers import headers_of
from tiebreak.web.problems import refused
from tiebreak.web.shapes import CancelTraining, StartTraining, TrainingRun, TrainingRunPage
from tiebreak.web.site import Site, site_of
from tiebreak.workflows import versions

PREFIX = "/v1/workflows/{workflow}/training-runs"

router = APIRouter(prefix=PREFIX, route_class=LeanRoute, tags=["training"])
lists = APIRouter(prefix=PREFIX, route_class=GuardedRoute, tags=["training"])

WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])
RUN = Path(
    description="The run's id, a UUID.",
    examples=["3f2a81c0-6f0e-4d4e-9a55-0123456789ab"],
    pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
)

M = TypeVar("M", bound=BaseModel)


class Asked(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, max_length=100, description="`next_cursor` of a page.")
    limit: int = Field(50, ge=1, le=500, description="Most ended runs of a page.")


@router.post(
    "",
    name="start_training",
    summary="Start a training run",
    status_code=202,
    responses=described(
        TrainingRun, 400, 401, 403, 404, 408, 409, 413, 415, 422, 500, 503, status=202
    ),
)
async def start_training(request: HttpRequest, workflow: str = WORKFLOW) -> Response:
    """Let the task worker train a model on the newest version of the workflow.

    The answer comes at once; the run's own address tells how far it is. Of a workflow one run
    waits or runs at a time. Nothing goes into production by it.
    """
    site = site_of(request)
    asked = await _read(request, site, StartTraining)
    stored = await versions.latest(site.db, workflow)
    now = datetime.now(UTC)
    defaults = Parameters(valid_from=now)
    wanted = Request(
        workflow=workflow,
        workflow_version=stored.workflow.version,
        known_by=asked.known_by or now,
        valid_from=asked.valid_from,
        family=asked.family,
        parameters=replace(
            defaults,
            tune_from=asked.tune_from,
            seed=asked.seed,
            rounds=asked.trees or defaults.rounds,
            max_depth=asked.depth or defaults.max_depth,
            learning_rate=asked.learning_rate or defaults.learning_rate,
        ),
        author=str(actor_of(request)),
        reason=asked.reason,
    )
    turn = await (await _trainer(site)).queue(wanted)
    await asyncio.to_thread(queue.send, site.settings, turn.run_id)
    return answered(records.waiting(turn), 202)


@lists.get(
    "",
    name="list_training_runs",
    summary="List training runs",
    response_class=Response,
    responses=described(TrainingRunPage, 401, 403, 404, 422, 500, 503),
)
async def list_training_runs(
    request: HttpRequest, asked: Annotated[Asked, Query()], workflow: str = WORKFLOW
) -> Response:
    """The run that waits or runs, on the first page, and those that ended, newest first."""
    site = site_of(request)
    after = read_cursor(asked.cursor) if asked.cursor else None
    now = [] if after else await records.current(site.db, workflow)
    rows = await records.ended(site.db, workflow, after=after, limit=asked.limit + 1)
    if not now and not rows:
        await versions.latest(site.db, workflow)
    page, has_more = rows[: asked.limit], len(rows) > asked.limit
    last = (page[-1]["started_at"], uuid.UUID(page[-1]["run_id"])) if has_more else None
    told: dict[str, Any] = {
        "runs": [*now, *page],
        "next_cursor": write_cursor(last) if last else None,
    }
    return answered(told)


@router.get(
    "/{run_id}",
    name="get_training_run",
    summary="Read a training run",
    responses=described(TrainingRun, 401, 403, 404, 422, 500, 503),
)
async def get_training_run(
    request: HttpRequest, workflow: str = WORKFLOW, run_id: str = RUN
) -> Response:
    """How far a run is, or what came of it."""
    return answered(await _run(site_of(request), workflow, run_id))


@router.post(
    "/{run_id}/cancel",
    name="cancel_training",
    summary="End a training run",
    status_code=202,
    responses=described(TrainingRun, 400, 401, 403, 404, 408, 413, 415, 422, 500, 503, status=202),
)
async def cancel_training(
    request: HttpRequest, workflow: str = WORKFLOW, run_id: str = RUN
) -> Response:
    """End a run that waits or runs; nothing of it is kept but its record.

    One that runs ends within seconds. One that has ended is not found.
    """
    site = site_of(request)
    asked = await _read(request, site, CancelTraining)
    await _run(site, workflow, run_id)
    trainer = await _trainer(site)
    await trainer.cancel(uuid.UUID(run_id), by=str(actor_of(request)), reason=asked.reason)
    return answered(await _run(site, workflow, run_id), 202)


async def _trainer(site: Site) -> Trainer:
    """What queues and cancels; it seals only what it finds left, in a lane of its own."""
    lane = await Lane.open(site.db, "training", site.keyring)
    return Trainer(site.db, lane, site.settings, site.keyring)


async def _run(site: Site, workflow: str, run_id: str) -> records.Row:
    try:
        found = await records.get(site.db, uuid.UUID(run_id))
    except ValueError:
        raise UnknownRun(hint="A run's id is a UUID.") from None
    if found["workflow"] != workflow:
        raise UnknownRun(hint="It is of another workflow.", run_id=run_id)
    return found


async def _read(request: HttpRequest, site: Site, model: type[M]) -> M:
    """The body as this model. Raises MalformedBody or InvalidInput."""
    check_content_type(headers_of(request), JSON)
    loaded = load_object(await read_body(request, site.settings.api.max_body_bytes), depth=1)
    if isinstance(loaded, tuple):
        raise refused(loaded)
    try:
        return model.model_validate(loaded)
    except ValidationError as error:
        problems = tuple(
            Problem(".".join(map(str, each["loc"]))[:80], each["type"], each["msg"])
            for each in error.errors(include_url=False, include_input=False)[:100]
        )
        raise InvalidInput(problems=problems) from None
