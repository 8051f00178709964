"""Decisions by a real model over HTTP: scored, explained, and by rules alone when it is altered."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import polars as pl
import pytest
from tests.databases import DatabaseUrls, run
from tests.functional.serving import REPAIRS, TICKET, prepare, serving, settings_for

from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys, payload_of, sign, signed_by
from tiebreak.core.model import Model
from tiebreak.core.text import TextScore
from tiebreak.core.workflow import RowFeature
from tiebreak.decisions import answers
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.erasure import erase
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Parameters
from tiebreak.training.train import train
from tiebreak.web.shapes import Explanation

SCORED = REPAIRS.model_copy(
    update={
        "features": (
            RowFeature(name="price", sql="cost"),
            RowFeature(name="crowd", sql="people"),
            RowFeature(name="sort", sql="kind", kind="category"),
            RowFeature(name="told", sql="remarks", kind="text"),
        )
    }
)
START = datetime(2025, 1, 1, tzinfo=UTC)
ROWS = 4000
FORGED = b"a key that nobody has given out."


@pytest.fixture(scope="module")
def parts() -> Mapping[str, bytes]:
    """The parts of a model in which costly leaks end badly, the more so where someone slipped."""
    chance = np.random.default_rng(1)
    cost, people = chance.uniform(0, 100, ROWS), chance.integers(0, 5, ROWS)
    kind = chance.choice(["leak", "lamp"], ROWS)
    told = chance.choice(["a man slipped", "a man came", "nobody slipped", "nobody came"], ROWS)
    slipped = np.array([text.endswith("slipped") for text in told])
    odds = 0.05 * cost + np.where(kind == "leak", 1.0, -1.0) + 2 * slipped - 4
    frame = pl.DataFrame({"price": cost, "crowd": people.astype(float), "sort": kind, "told": told})
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
    return ArtifactStore(Folder(folder / "artifacts")).put_bundle(make_bundle(parts, keys))


def ticket(ticket_id: str, **fields: Any) -> dict[str, Any]:
    return {"ticket_id": ticket_id, "fields": {**TICKET, **fields}}


def test_a_decision_is_scored_and_its_explanation_adds_up(
    database_urls: DatabaseUrls,
    keyring: Keyring,
    tmp_path: Path,
    parts: Mapping[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digest = stored(parts, keyring, tmp_path)
    tokens = prepare(database_urls, keyring, workflow=SCORED, bundle_digest=digest)
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    settings = settings_for(database_urls, tmp_path)
    with (
        serving(settings, keyring) as (url, _),
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        assert client.get("/readyz").json() == {"status": "ready", "problems": [], "warnings": []}
        path = "/v1/workflows/repairs/decisions"
        remarks = "Two men SLIPPED in Elm Street"
        answer = client.post(path, json=ticket("t", cost=99, people=2, remarks=remarks)).json()
        cheap = client.post(path, json=ticket("u", cost=1, kind="lamp")).json()
        model = answer["model"]
        assert model["status"] == "scored"
        assert model["score"] > cheap["model"]["score"]
        assert model["top_contributions"][0]["feature"] == "price"
        read = client.get(f"/v1/decisions/{answer['decision_id']}")
        assert read.json() == answer
        told = client.get(f"/v1/decisions/{answer['decision_id']}/explanation").json()
        Explanation.model_validate_json(orjson.dumps(told), strict=True)
        parts_by_name = {item["feature"]: item for item in told["contributions"]}
        words = parts_by_name["told"].pop("words")
        assert {name: item["value"] for name, item in parts_by_name.items()} == {
            "price": 99.0,
            "crowd": 2,
            "sort": "leak",
            "told": pytest.approx(learnt_of(parts).base + sum(word["part"] for word in words)),
        }
        assert words[0]["word"] == "SLIPPED"
        assert words[0]["part"] > 0
        assert not any("words" in item for item in parts_by_name.values())
        total = told["base_value"] + sum(item["contribution"] for item in told["contributions"])
        assert total == pytest.approx(model["margin"], abs=1e-5)
        assert (told["margin"], told["score"]) == (model["margin"], model["score"])
        monkeypatch.setattr(answers, "TOP_WORDS", 1)
        both = client.post(path, json=ticket("v", remarks="nobody slipped")).json()
        told = client.get(f"/v1/decisions/{both['decision_id']}/explanation").json()
        (words,) = (item["words"] for item in told["contributions"] if "words" in item)
        strongest, weaker = learnt_of(parts).parts("nobody slipped")
        assert words == [asdict(strongest)]
        assert abs(strongest.part) >= abs(weaker.part)


def learnt_of(parts: Mapping[str, bytes]) -> TextScore:
    (spec,) = (spec for spec in Model.load(parts, "").features if spec.name == "told")
    assert spec.text is not None
    return spec.text


def test_the_words_of_an_erased_ticket_are_gone(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, parts: Mapping[str, bytes]
) -> None:
    digest = stored(parts, keyring, tmp_path)
    tokens = prepare(database_urls, keyring, workflow=SCORED, bundle_digest=digest)
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}

    async def erased() -> int:
        db = await Database.open(database_urls.app, pool_size=1)
        lane = await Lane.open(db, "erasing", keyring)
        async with lane.unit() as unit:
            count = await erase(unit, "repairs", "t", actor="ann", reason="asked")
        await db.close()
        return count

    with (
        serving(settings_for(database_urls, tmp_path), keyring) as (url, _),
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        given = ticket("t", remarks="nobody slipped")
        answer = client.post("/v1/workflows/repairs/decisions", json=given).json()
        path = f"/v1/decisions/{answer['decision_id']}/explanation"
        before = {item["feature"]: item for item in client.get(path).json()["contributions"]}
        assert {word["word"] for word in before["told"]["words"]} == {"nobody", "slipped"}
        assert run(erased())
        response = client.get(path)
        assert "slipped" not in response.text
        after = {item["feature"]: item for item in response.json()["contributions"]}
        assert after["told"] == {
            "feature": "told",
            "value": None,
            "contribution": before["told"]["contribution"],
        }


def forged(data: bytes, key_id: str) -> bytes:
    return sign(payload_of(data), BundleKeys({key_id: FORGED}, key_id))


SPOILT: Mapping[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "missing": ("bundle_missing", lambda _: None),
    "empty": ("bundle_length_wrong", lambda _: b""),
    "cut off": ("bundle_length_wrong", lambda data: data[:-1]),
    "altered": ("bundle_altered", lambda data: data[:-200] + b"\0" + data[-199:]),
    "unsigned": ("bundle_unsigned", payload_of),
    "of no signature": ("bundle_altered", lambda data: data[:36] + bytes(32) + data[68:]),
    "of a forger": (
        "bundle_altered",
        lambda data: forged(data, signed_by(data)[0]),
    ),
    "of an unknown key": (
        "bundle_key_unknown",
        lambda data: forged(data, "unknown"),
    ),
}


@pytest.mark.parametrize(("code", "spoil"), SPOILT.values(), ids=SPOILT.keys())
def test_a_bundle_that_does_not_load_leaves_the_rules_to_decide(
    database_urls: DatabaseUrls,
    keyring: Keyring,
    tmp_path: Path,
    parts: Mapping[str, bytes],
    code: str,
    spoil: Callable[[bytes], bytes | None],
) -> None:
    digest = stored(parts, keyring, tmp_path)
    (bundle,) = (p for p in (tmp_path / "artifacts").rglob("*") if p.is_file())
    spoilt = spoil(bundle.read_bytes())
    bundle.unlink()
    if spoilt is not None:
        bundle.write_bytes(spoilt)
    tokens = prepare(database_urls, keyring, workflow=SCORED, bundle_digest=digest)
    headers = {"Authorization": f"Bearer {tokens[Role.ADMIN]}"}
    with serving(settings_for(database_urls, tmp_path), keyring) as (url, _):
        ready = httpx.get(url + "/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert [each["code"] for each in ready.json()["problems"]] == [code]
        answer = httpx.post(
            f"{url}/v1/workflows/repairs/decisions", json=ticket("t", urgent=True), headers=headers
        ).json()
        assert (answer["band"], answer["model"]) == ("critical", {"status": "failed"})
        path = f"{url}/v1/decisions/{answer['decision_id']}/explanation"
        assert httpx.get(path, headers=headers).json()["code"] == "not_scored"


@pytest.mark.full
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
