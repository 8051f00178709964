"""Decisions by a real model over HTTP: scored, explained, and by rules alone when it is altered."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from tests.databases import DatabaseUrls
from tests.functional.serving import REPAIRS, TICKET, prepare, serving, settings_for

from tiebreak.access.roles import Role
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.workflow import RowFeature
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.settings import Keyring
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Parameters
from tiebreak.training.train import train

SCORED = REPAIRS.model_copy(
    update={
        "features": (
            RowFeature(name="price", sql="cost"),
            RowFeature(name="crowd", sql="people"),
            RowFeature(name="sort", sql="kind", kind="category"),
        )
    }
)
START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 4000


@pytest.fixture(scope="module")
def parts() -> Mapping[str, bytes]:
    """The parts of a model in which costly leaks end badly."""
    chance = np.random.default_rng(1)
    cost, people = chance.uniform(0, 100, ROWS), chance.integers(0, 5, ROWS)
    kind = chance.choice(["leak", "lamp"], ROWS)
    odds = 0.05 * cost + np.where(kind == "leak", 1.0, -1.0) - 3
    frame = pl.DataFrame({"price": cost, "crowd": people.astype(float), "sort": kind})
    snapshot = Snapshot(
        SCORED,
        frame,
        label=pl.Series(chance.uniform(size=ROWS) < 1 / (1 + np.exp(-odds))),
        as_of=pl.Series([START + timedelta(hours=i) for i in range(ROWS)]),
        data_hash="test",
    )
    parameters = Parameters(valid_from=START + timedelta(hours=3200), rounds=20, max_depth=3)
    fingerprint = engine_fingerprint().hash
    return train(snapshot, parameters, lambda *_: None, fingerprint=fingerprint).parts


def stored(parts: Mapping[str, bytes], keyring: Keyring, folder: Path) -> str:
    """Store the bundle where the server looks for it; its digest."""
    keys = BundleKeys(keyring.bundle_keys, keyring.bundle_signing_key_id)
    return ArtifactStore(folder / "artifacts").put_bundle(make_bundle(parts, keys))


def ticket(ticket_id: str, **fields: Any) -> dict[str, Any]:
    return {"ticket_id": ticket_id, "fields": {**TICKET, **fields}}


def test_a_decision_is_scored_and_its_explanation_adds_up(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, parts: Mapping[str, bytes]
) -> None:
    digest = stored(parts, keyring, tmp_path)
    tokens = prepare(database_urls, keyring, workflow=SCORED, bundle_digest=digest)
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    settings = settings_for(database_urls, tmp_path)
    with (
        serving(settings, keyring) as (url, _),
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        assert client.get("/readyz").json() == {"status": "ready", "problems": []}
        path = "/v1/workflows/repairs/decisions"
        answer = client.post(path, json=ticket("t", cost=99, people=2)).json()
        cheap = client.post(path, json=ticket("u", cost=1, kind="lamp")).json()
        model = answer["model"]
        assert model["status"] == "scored"
        assert model["score"] > cheap["model"]["score"]
        assert model["top_contributions"][0]["feature"] == "price"
        read = client.get(f"/v1/decisions/{answer['decision_id']}")
        assert read.json() == answer
        told = client.get(f"/v1/decisions/{answer['decision_id']}/explanation").json()
        assert {item["feature"]: item["value"] for item in told["contributions"]} == {
            "price": 99.0,
            "crowd": 2,
            "sort": "leak",
        }
        total = told["base_value"] + sum(item["contribution"] for item in told["contributions"])
        assert total == pytest.approx(model["margin"], abs=1e-5)
        assert (told["margin"], told["score"]) == (model["margin"], model["score"])


def test_an_altered_bundle_leaves_the_rules_to_decide(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, parts: Mapping[str, bytes]
) -> None:
    digest = stored(parts, keyring, tmp_path)
    (bundle,) = (p for p in (tmp_path / "artifacts").rglob("*") if p.is_file())
    data = bytearray(bundle.read_bytes())
    data[-200] ^= 1
    bundle.chmod(0o600)
    bundle.write_bytes(data)
    tokens = prepare(database_urls, keyring, workflow=SCORED, bundle_digest=digest)
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    with serving(settings_for(database_urls, tmp_path), keyring) as (url, _):
        ready = httpx.get(url + "/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        answer = httpx.post(
            f"{url}/v1/workflows/repairs/decisions", json=ticket("t", urgent=True), headers=headers
        ).json()
        assert (answer["band"], answer["model"]) == ("critical", {"status": "failed"})
        path = f"{url}/v1/decisions/{answer['decision_id']}/explanation"
        assert httpx.get(path, headers=headers).json()["code"] == "not_scored"


def test_a_model_that_is_back_decides_again_and_one_that_is_gone_takes_nothing_away(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, parts: Mapping[str, bytes]
) -> None:
    digest = stored(parts, keyring, tmp_path)
    (bundle,) = (p for p in (tmp_path / "artifacts").rglob("*") if p.is_file())
    away = bundle.rename(tmp_path / "away")
    tokens = prepare(database_urls, keyring, workflow=SCORED, bundle_digest=digest)
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    base = "/v1/workflows/repairs"

    def again(client: httpx.Client) -> dict[str, Any]:
        path = f"{base}/tickets/t/revisions/1/decisions"
        return client.post(path, json={"reason": "the model is back"}, headers=headers).json()

    with (
        serving(settings_for(database_urls, tmp_path), keyring) as (url, _),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        first = client.post(f"{base}/decisions", json=ticket("t", cost=99), headers=headers).json()
        assert first["model"] == {"status": "failed"}
        assert again(client) == first  # no model yet: nothing new to say
        away.rename(bundle)
        while client.get("/readyz").json()["status"] != "ready":
            time.sleep(0.05)
        second = again(client)
        assert (second["ordinal"], second["model"]["status"]) == (2, "scored")
        assert second["policy_hash"] == first["policy_hash"]
        assert again(client) == second
    bundle.unlink()
    with (
        serving(settings_for(database_urls, tmp_path), keyring) as (url, _),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        assert client.get("/readyz").json()["status"] == "degraded"
        assert again(client)["decision_id"] == second["decision_id"]
