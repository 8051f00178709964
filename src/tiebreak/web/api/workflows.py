"""Workflows: what is loaded, what is in production, and what it takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.core.tickets import outcome_schema, ticket_schema
from tiebreak.decisions.service import DecisionService
from tiebreak.web.answering import answered, described
from tiebreak.web.auth import LeanRoute
from tiebreak.web.shapes import WorkflowDetail, WorkflowList, WorkflowVersionList
from tiebreak.web.site import site_of
from tiebreak.workflows import versions
from tiebreak.workflows.versions import UnknownWorkflow, Version

router = APIRouter(prefix="/v1/workflows", route_class=LeanRoute, tags=["workflows"])

WORKFLOW = Path(description="Name of the workflow.", examples=["locate"])


@router.get(
    "",
    name="list_workflows",
    summary="List workflows",
    responses=described(WorkflowList, 401, 403, 500, 503),
)
async def list_workflows(request: Request) -> Response:
    """All loaded workflows with their newest version and the policy in production."""
    site = site_of(request)
    found = [
        {
            "workflow": version.workflow,
            "newest_version": _version(version),
            "production": _production(site.service, version.workflow),
        }
        for version in await versions.newest_versions(site.db)
    ]
    return answered({"workflows": found})


@router.get(
    "/{workflow}",
    name="get_workflow",
    summary="Read a workflow",
    responses=described(WorkflowDetail, 401, 403, 404, 500, 503),
)
async def get_workflow(request: Request, workflow: str = WORKFLOW) -> Response:
    """A workflow with the JSON Schemas of its tickets and outcomes."""
    site = site_of(request)
    production = _production(site.service, workflow)
    if production is None:
        config = (await versions.latest(site.db, workflow)).workflow
    else:
        config = site.service.policy(workflow).workflow
    told = {
        "workflow": config.name,
        "title": config.title,
        "description": config.description,
        "production": production,
        "ticket_schema": ticket_schema(config).json_schema(),
        "outcome_schema": outcome_schema(config).json_schema(),
    }
    return answered(told)


@router.get(
    "/{workflow}/versions",
    name="list_workflow_versions",
    summary="List a workflow's versions",
    responses=described(WorkflowVersionList, 401, 403, 404, 500, 503),
)
async def list_workflow_versions(request: Request, workflow: str = WORKFLOW) -> Response:
    """Every stored version of a workflow, newest first."""
    found = await versions.versions_of(site_of(request).db, workflow)
    if not found:
        raise UnknownWorkflow(hint="GET /v1/workflows lists them.", workflow=workflow)
    return answered({"workflow": workflow, "versions": [_version(item) for item in found]})


def _version(version: Version) -> dict[str, Any]:
    told = asdict(version)
    del told["workflow"]
    return told


def _production(service: DecisionService, workflow: str) -> dict[str, Any] | None:
    if workflow not in service.workflows():
        return None
    policy = service.policy(workflow)
    return {
        "policy_hash": policy.hash,
        "workflow_version": policy.parts.workflow_version,
        "rules_version": policy.parts.rules_version,
        "bundle_digest": policy.parts.bundle_digest,
        "model_status": policy.model_status,
    }
