"""Backtests of changed policies: ask for one, follow it, end it, and read what it found."""

from __future__ import annotations

import asyncio
import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.backtest.evidence import Evidence
from tiebreak.backtest.orders import Order, Orders, Standing, UnknownOrder
from tiebreak.backtest.plans import Request as Wanted
from tiebreak.backtest.supervising import Supervisor
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.registry.candidates import Changes
from tiebreak.registry.proposals import changed
from tiebreak.release import drafts
from tiebreak.release.drafts import Draft
from tiebreak.web.answering import answered, described
from tiebreak.web.api.release_requests import READING, REFUSALS, UUID_PATTERN, read
from tiebreak.web.auth import GuardedRoute, LeanRoute, actor_of
from tiebreak.web.release_shapes import (
    ID,
    NO_NUL,
    BacktestPage,
    BacktestRequest,
    BacktestRun,
    BacktestRunDetail,
    FileName,
    Stop,
)
from tiebreak.web.site import Site, site_of

PREFIX = "/v1/releases/backtests"
RUN = InPath(description="The run's id, a UUID.", examples=[ID], pattern=UUID_PATTERN)

lists = APIRouter(prefix=PREFIX, route_class=GuardedRoute, tags=["releases"])
router = APIRouter(prefix=PREFIX, route_class=LeanRoute, tags=["releases"])


class Asked(BaseModel):
    """What a list of backtests is narrowed to."""

    model_config = ConfigDict(extra="forbid")

    workflow: str | None = Field(
        None, max_length=200, pattern=NO_NUL, description="Only of this workflow."
    )
    limit: int = Field(50, ge=1, le=500, description="Most of them.")


@router.post(
    "",
    name="start_backtest",
    summary="Backtest a change",
    status_code=202,
    responses=described(BacktestRun, *REFUSALS, status=202),
)
async def start_backtest(request: Request) -> Response:
    """Let the task worker decide history by a changed policy and compare; nothing is changed.

    The answer comes at once; the run's own address tells how far it is, and in the end the id of
    the evidence, which a proposal names. Of a workflow one run waits or runs at a time.
    """
    site, wanted = site_of(request), await read(request, BacktestRequest)
    draft = await _draft(site, wanted)
    order = Order(
        run_id=uuid.uuid4(),
        request=Wanted(
            workflow=wanted.workflow,
            candidate=draft.recipe,
            production=draft.production,
            since=wanted.since,
            until=wanted.until,
            by=tuple(dict.fromkeys(wanted.by or draft.recipe.workflow.slices)),
        ),
        minutes_a_review=wanted.minutes_a_review,
        author=actor_of(request).person,
        asked_at=datetime.now(UTC),
    )
    return answered(_told(await _supervisor(site).ask(order)), 202)


@lists.get(
    "",
    name="list_backtests",
    summary="List backtests",
    response_class=Response,
    responses=described(BacktestPage, 401, 403, 422, 500, 503),
)
async def list_backtests(request: Request, asked: Annotated[Asked, Query()]) -> Response:
    """Those that were asked for here, newest first."""
    found = await asyncio.to_thread(Orders.of(site_of(request).settings).list, asked.workflow)
    return answered({"backtests": [_told(each) for each in found[: asked.limit]]})


@router.get(
    "/{run_id}",
    name="get_backtest",
    summary="Read a backtest",
    responses=described(BacktestRunDetail, *READING),
)
async def get_backtest(request: Request, run_id: str = RUN) -> Response:
    """How far it is, or what it found."""
    site = site_of(request)
    standing = await asyncio.to_thread(Orders.of(site.settings).get, _id(run_id))
    found = None
    if standing.backtest_id is not None:
        made = await asyncio.to_thread(Evidence.of(site.settings).get, standing.backtest_id)
        found = made.evidence
    return answered({**_told(standing), "evidence": found})


@router.post(
    "/{run_id}/cancel",
    name="cancel_backtest",
    summary="End a backtest",
    status_code=202,
    responses=described(BacktestRun, *REFUSALS, status=202),
)
async def cancel_backtest(request: Request, run_id: str = RUN) -> Response:
    """End one that waits or runs; one that runs ends within seconds.

    What it has decided is kept for the next one that is asked for the same. One that has ended is
    not found.
    """
    site, wanted = site_of(request), await read(request, Stop)
    by = actor_of(request).person
    standing = await _supervisor(site).cancel(_id(run_id), by=by, reason=wanted.reason)
    return answered(_told(standing), 202)


def _supervisor(site: Site) -> Supervisor:
    return Supervisor(site.office.lane, site.settings)


async def _draft(site: Site, wanted: BacktestRequest) -> Draft:
    """The policy to be tried, and the one in production. Raises what `draft` raises."""
    with tempfile.TemporaryDirectory() as folder:
        if wanted.files is not None:
            await asyncio.to_thread(_write, Path(folder), wanted.files)
        changes = Changes(
            policy=wanted.policy,
            folder=None if wanted.files is None else Path(folder),
            bundle=wanted.bundle,
            knobs={name: json.dumps(value) for name, value in (wanted.knobs or {}).items()},
        )
        artifacts = ArtifactStore.of(site.settings)
        return await drafts.draft(site.office, artifacts, wanted.workflow, changes)


def _write(folder: Path, files: Mapping[FileName, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _id(run_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(run_id)
    except ValueError:
        raise UnknownOrder(hint="GET /v1/releases/backtests lists them.") from None


def _told(standing: Standing) -> dict[str, Any]:
    order = standing.order
    request = order.request
    before = None if request.production is None else request.production.parts
    return {
        "run_id": str(order.run_id),
        "workflow": request.workflow,
        "policy_hash": order.policy_hash,
        "production": None if before is None else before.hash,
        "changes": [asdict(change) for change in changed(before, request.candidate.parts)],
        "since": request.since,
        "until": request.until,
        "by": list(request.by),
        "minutes_a_review": order.minutes_a_review,
        "author": order.author,
        "asked_at": order.asked_at,
        "state": standing.state,
        "step": standing.step,
        "share": standing.share,
        "started_at": standing.started_at,
        "finished_at": standing.finished_at,
        "cancelled_by": standing.cancelled_by,
        "backtest": standing.backtest_id,
        "error": standing.error,
    }
