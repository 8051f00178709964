"""The API's description and a page that shows it; both need no internet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from tiebreak.core.tickets import outcome_schema, ticket_schema
from tiebreak.web.answering import answered
from tiebreak.web.auth import LeanRoute
from tiebreak.web.openapi import Json, WorkflowShape, describe, routes_description
from tiebreak.web.problems import RouteNotFound
from tiebreak.web.site import site_of

ASSETS = frozenset({"swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"})

router = APIRouter(route_class=LeanRoute, include_in_schema=False)


@router.get("/openapi.json", name="openapi")
async def openapi(request: Request) -> Response:
    """The OpenAPI description, with the tickets of every workflow in production."""
    routes: Json | None = getattr(request.app.state, "routes_description", None)
    if routes is None:
        routes = request.app.state.routes_description = routes_description(request.app)
    service = site_of(request).service
    shapes: list[WorkflowShape] = []
    for name in service.workflows():
        workflow = service.policy(name).workflow
        shapes.append(WorkflowShape(name, ticket_schema(workflow), outcome_schema(workflow)))
    return answered(describe(routes, shapes))


@router.get("/docs", name="docs")
async def docs(request: Request) -> Response:  # noqa: ARG001 - every lean endpoint takes it
    """A page to read the description and try requests."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Tiebreak API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )


@router.get("/docs/{asset}", name="docs_asset")
async def docs_asset(request: Request, asset: str) -> Response:  # noqa: ARG001
    """The page's script, style and icon."""
    if asset not in ASSETS:
        raise RouteNotFound
    return FileResponse(_assets() / asset, headers={"Cache-Control": "public, max-age=86400"})


def _assets() -> Path:
    """The folder of Swagger UI, which `fastapi-offline` carries; the module itself is not used."""
    spec = find_spec("fastapi_offline")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "static"
