"""A server whose bundle is in a bucket: the bucket goes away, and the model stays."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests import s3
from tests.databases import DatabaseUrls, run
from tests.functional.serving import REPAIRS, RULES, TICKET, prepare, serving, settings_for
from tests.functional.test_web_explanations import SCORED, parts
from tests.releases import put

from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.policy import PolicyParts
from tiebreak.decisions import upkeep
from tiebreak.settings import Keyring
from tiebreak.store.database import Database

__all__ = ["parts"]  # the fixture of a trained model

WAIT_SECONDS = 40


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Generator[s3.S3]:
    """A server of this test's own, which it may kill."""
    for name, value in s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(upkeep, "EVERY_SECONDS", 0.3)
    with s3.running() as server:
        yield server


class Bench:
    """A workflow whose model's bundle lies in the bucket."""

    def __init__(
        self, urls: DatabaseUrls, keyring: Keyring, folder: Path, server: s3.S3, parts: Any
    ) -> None:
        self.urls, self.keyring, self.server = urls, keyring, server
        self.settings = settings_for(urls, folder).model_copy(
            update={"artifacts": server.settings()}
        )
        self.digest = self.put(parts)
        self.tokens = prepare(urls, keyring, workflow=SCORED, bundle_digest=self.digest)

    def put(self, parts: Mapping[str, bytes]) -> str:
        """Store a bundle; its digest."""
        keys = BundleKeys(self.keyring.bundle_keys, self.keyring.bundle_signing_key_id)
        return ArtifactStore.of(self.settings).put_bundle(make_bundle(parts, keys))

    def promote(self, parts: Mapping[str, bytes]) -> None:
        """Put a policy with this bundle into production from a machine that has it in a folder."""
        folder = Path(tempfile.mkdtemp(dir=self.settings.data_dir))
        bundle = make_bundle(parts, BundleKeys.of(self.keyring))
        digest = ArtifactStore(Folder(folder)).put_bundle(bundle)

        async def work() -> None:
            db = await Database.open(self.urls.app, pool_size=2)
            lane = await Lane.open(db, "tests", self.keyring)
            named = PolicyParts(SCORED.name, SCORED.version, RULES.version, digest)
            await put(db, lane, self.keyring, named, artifacts=folder)
            await db.close()

        run(work())

    def decide(self, url: str, ticket_id: str) -> dict[str, Any]:
        """Decide a ticket."""
        body = {"ticket_id": ticket_id, "fields": {**TICKET, "cost": 99}}
        headers = {"Authorization": f"Bearer {self.tokens[Role.SERVICE]}"}
        path = f"{url}/v1/workflows/{REPAIRS.name}/decisions"
        return httpx.post(path, json=body, headers=headers, timeout=30).raise_for_status().json()


@pytest.fixture
def bench(
    database_urls: DatabaseUrls,
    keyring: Keyring,
    tmp_path: Path,
    server: s3.S3,
    parts: Mapping[str, bytes],
) -> Bench:
    return Bench(database_urls, keyring, tmp_path, server, parts)


def readiness(url: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What /readyz says, once it says what is wanted."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        told = httpx.get(f"{url}/readyz", timeout=10).json()
        if wanted(told):
            return told
        assert time.monotonic() < end, told
        time.sleep(0.1)


def has(code: str) -> Callable[[dict[str, Any]], bool]:
    return lambda told: code in {problem["code"] for problem in told["problems"]}


def is_ready(told: dict[str, Any]) -> bool:
    return told["status"] == "ready"


def test_the_model_outlives_the_bucket_and_the_worker(bench: Bench) -> None:
    with serving(bench.settings, bench.keyring) as (url, _):
        readiness(url, is_ready)
        first = bench.decide(url, "one")
        assert first["model"]["status"] == "scored"
        bench.server.kill()
        told = readiness(url, has("artifacts_unavailable"))
        assert told["status"] == "degraded"
        assert any(s3.BUCKET in problem["message"] for problem in told["problems"])
        assert bench.decide(url, "two")["model"] == first["model"]
    with serving(bench.settings, bench.keyring) as (url, _):  # as after a restart
        readiness(url, has("artifacts_unavailable"))
        assert bench.decide(url, "three")["model"] == first["model"]


@pytest.mark.full
def test_a_start_without_bucket_and_copy_is_by_rules_until_the_bucket_is_back(
    bench: Bench,
) -> None:
    bench.server.fail("error")
    with serving(bench.settings, bench.keyring) as (url, _):
        told = readiness(url, has("artifacts_unavailable"))
        assert told["status"] == "degraded"
        assert bench.digest in told["problems"][0]["message"]
        assert bench.decide(url, "one")["model"] == {"status": "failed"}
        bench.server.fail("")
        readiness(url, is_ready)
        assert bench.decide(url, "two")["model"]["status"] == "scored"


@pytest.mark.full
def test_a_release_whose_bundle_cannot_be_fetched_waits_for_the_bucket(
    bench: Bench, parts: Mapping[str, bytes]
) -> None:
    with serving(bench.settings, bench.keyring) as (url, _):
        readiness(url, is_ready)
        first = bench.decide(url, "one")
        new = {**parts, "note.txt": random.Random(1).randbytes(10)}
        other = bench.put(new)
        bench.server.fail("silence")
        bench.promote(new)
        told = readiness(url, lambda told: other in str(told["problems"]))
        assert "The policy before it goes on deciding." in told["problems"][0]["message"]
        second = bench.decide(url, "two")
        assert second["policy_hash"] == first["policy_hash"]
        assert second["model"] == first["model"]
        bench.server.fail("")
        readiness(url, is_ready)
        third = bench.decide(url, "three")
        assert third["policy_hash"] != first["policy_hash"]
        assert third["model"]["status"] == "scored"


def test_a_bundle_taken_out_of_the_bucket_is_told_and_goes_on_deciding(bench: Bench) -> None:
    with serving(bench.settings, bench.keyring) as (url, _):
        readiness(url, is_ready)
        bench.server.empty()
        told = readiness(url, has("bundle_missing"))
        assert bench.digest in str(told["problems"])
        assert bench.decide(url, "one")["model"]["status"] == "scored"


def test_an_altered_object_leaves_the_rules_to_decide(bench: Bench) -> None:
    key = f"{s3.PREFIX}/bundles/{bench.digest}.bundle"
    data = bytearray(bench.server.objects()[key])
    data[-200] ^= 1
    bench.server.client().put_object(Bucket=s3.BUCKET, Key=key, Body=bytes(data))
    with serving(bench.settings, bench.keyring) as (url, _):
        told = readiness(url, has("bundle_altered"))
        assert bench.digest in str(told["problems"])
        assert bench.decide(url, "one")["model"] == {"status": "failed"}
