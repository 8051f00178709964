"""Models over HTTP: the list, one of them, its card, and who may read them."""

from __future__ import annotations

import httpx
import pytest
from tests.functional.serving import Site

from tiebreak.access.roles import Role
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.web.shapes import ModelDetail, ModelList

MANIFEST = b"""{"workflow": "repairs", "family": "xgboost", "trees": 3, "data_hash": "abc",
"features": [{"name": "<price>|", "kind": "number", "definition": "", "categories": []}],
"metrics": {"auc": 0.8, "pr_auc": 0.4}, "parity": {"margin": 1e-7, "rows": 10},
"rows": {"training": 1000}}"""


@pytest.fixture
def digest(site: Site) -> str:
    bundle = make_bundle({"manifest.json": MANIFEST}, BundleKeys.of(site.keyring))
    return ArtifactStore.of(site.settings).put_bundle(bundle)


def test_models_are_listed_and_read(site: Site, digest: str) -> None:
    client = site.client(Role.ML_ENGINEER)
    listed = client.get("/v1/models").json()
    ModelList.model_validate(listed)
    assert [model["digest"] for model in listed["models"]] == [digest]
    assert listed["models"][0]["metrics"]["auc"] == 0.8
    told = client.get(f"/v1/models/{digest}").json()
    ModelDetail.model_validate(told)
    assert told["lineage"]["data_hash"] == "abc"


def test_a_card_is_markdown_or_html_and_escaped(site: Site, digest: str) -> None:
    client = site.client(Role.ML_ENGINEER)
    card = client.get(f"/v1/models/{digest}/card")
    assert card.headers["content-type"].startswith("text/markdown")
    assert "| <price>\\| |" in card.text
    page = client.get(f"/v1/models/{digest}/card", params={"format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "&lt;price&gt;" in page.text
    assert "<price>" not in page.text


def test_models_that_do_not_load_say_why(site: Site, digest: str) -> None:
    path = site.settings.artifacts_dir / "bundles" / f"{digest}.bundle"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    client = site.client(Role.ML_ENGINEER)
    (model,) = client.get("/v1/models").json()["models"]
    assert "not the ones that were signed" in model["problem"]
    assert "does not load" in client.get(f"/v1/models/{digest}/card").text


def test_no_such_model(site: Site) -> None:
    client = site.client(Role.ML_ENGINEER)
    assert client.get(f"/v1/models/{'0' * 64}").status_code == 404
    assert client.get("/v1/models/short").status_code == 422


def test_only_those_who_work_on_models_read_them(site: Site, digest: str) -> None:
    allowed = {Role.ML_ENGINEER, Role.APPROVER, Role.AUDITOR, Role.LEAD, Role.ADMIN}
    for role, token in site.tokens.items():
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("/v1/models", f"/v1/models/{digest}", f"/v1/models/{digest}/card"):
            status = httpx.get(site.url + path, headers=headers, timeout=30).status_code
            assert status == (200 if role in allowed else 403), (role, path)
