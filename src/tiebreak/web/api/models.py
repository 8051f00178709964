"""The stored models: a list, one of them, and its card."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.registry.cards import markdown, page
from tiebreak.registry.models import Catalogue, listed
from tiebreak.web.answering import answered, described, problem_answers
from tiebreak.web.auth import GuardedRoute
from tiebreak.web.shapes import ModelDetail, ModelList
from tiebreak.web.site import site_of

router = APIRouter(prefix="/v1/models", route_class=GuardedRoute, tags=["models"])

DigestPath = Annotated[
    str, Path(description="Digest of the model's bundle.", pattern="^[0-9a-f]{64}$")
]


@router.get(
    "",
    name="list_models",
    summary="List models",
    response_class=Response,
    responses=described(ModelList, 401, 403, 500, 503),
)
async def list_models(request: Request) -> Response:
    """All stored models, newest first: what they are, who made them, where they are in use."""
    found = await _catalogue(request).list()
    return answered({"models": [listed(model) for model in found]})


@router.get(
    "/{digest}",
    name="get_model",
    summary="Read a model",
    response_class=Response,
    responses=described(ModelDetail, 401, 403, 404, 422, 500, 503),
)
async def get_model(request: Request, digest: DigestPath) -> Response:
    """One model with its manifest and its lineage: data, run, bundle, policies, releases."""
    file = await _catalogue(request).get(digest)
    lineage = asdict(file.lineage)
    return answered({"model": listed(file.model), "manifest": file.manifest, "lineage": lineage})


@router.get(
    "/{digest}/card",
    name="get_model_card",
    summary="Read a model's card",
    response_class=Response,
    responses={
        200: {
            "description": "The card, for people.",
            "content": {
                "text/markdown": {"schema": {"type": "string"}},
                "text/html": {"schema": {"type": "string"}},
            },
        },
        **problem_answers(401, 403, 404, 422, 500, 503),
    },
)
async def get_model_card(
    request: Request,
    digest: DigestPath,
    form: Annotated[
        Literal["md", "html"], Query(alias="format", description="Markdown or HTML.")
    ] = "md",
) -> Response:
    """What the model is made of, how good it is, its limits and its lineage."""
    file = await _catalogue(request).get(digest)
    if form == "html":
        return Response(page(file), media_type="text/html")
    return Response(markdown(file), media_type="text/markdown")


def _catalogue(request: Request) -> Catalogue:
    site = site_of(request)
    artifacts = ArtifactStore.of(site.settings)
    return Catalogue(site.db, artifacts, BundleKeys.of(site.keyring), site.keyring)
