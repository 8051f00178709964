"""Artifacts in a bucket: it fails in all its ways, copies go on, and nothing secret is told."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests import s3
from tests.keys import KEYRING

from tiebreak.bundles import bucket as bucket_module
from tiebreak.bundles.artifacts import ArtifactStore, S3Missing
from tiebreak.bundles.blobs import ArtifactsUnavailable
from tiebreak.bundles.bucket import Bucket
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import BundleAltered, BundleKeys
from tiebreak.settings import ArtifactSettings, Settings

KEYS = BundleKeys(KEYRING.bundle_keys, KEYRING.bundle_signing_key_id)
ROOT = Path(__file__).parents[2]


def bundle_of(number: int, size: int = 20_000) -> tuple[bytes, dict[str, bytes]]:
    parts = {"model": random.Random(number).randbytes(size)}
    return make_bundle(parts, KEYS), parts


BUNDLE, PARTS = bundle_of(1)


@pytest.fixture
def settings(s3_server: s3.S3, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, artifacts=s3_server.settings())


def copies(settings: Settings) -> dict[str, Path]:
    return {path.stem: path for path in settings.bundle_cache_dir.glob("*.bundle")}


def failure(artifacts: ArtifactStore, digest: str) -> ArtifactsUnavailable:
    with pytest.raises(ArtifactsUnavailable) as caught:
        artifacts.open_bundle(digest, KEYS)
    return caught.value


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("error", "500"),
        pytest.param("silence", "no answer in time", marks=pytest.mark.full),
        ("cut", "broke off"),
        ("garble", "garbled on its way"),
    ],
)
def test_a_bucket_that_fails_is_told_within_bounds_and_is_back_when_it_is(
    s3_server: s3.S3, settings: Settings, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    monkeypatch.setattr(bucket_module, "REST_SECONDS", 0.5)
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    s3_server.fail(fault)
    error = failure(artifacts, digest)
    assert reason in error.message
    assert f"s3://{s3.BUCKET}/{s3.PREFIX}" in error.message
    if fault not in ("cut", "garble"):
        (problem,) = artifacts.examine([digest])
        assert problem.code == "artifacts_unavailable"
    assert copies(settings) == {}
    s3_server.fail("")
    time.sleep(0.6)
    assert artifacts.open_bundle(digest, KEYS) == PARTS
    assert artifacts.examine([digest]) == ()


def test_an_object_that_only_drips_is_given_up(
    s3_server: s3.S3, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "TRANSFER_SECONDS", 1.0)
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    s3_server.fail("drip")
    assert "took longer than 1 seconds" in failure(artifacts, digest).message


def test_an_object_that_would_fill_the_memory_is_not_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    monkeypatch.setattr(bucket_module, "LARGEST_BYTES", 10_000)
    assert "too large" in failure(artifacts, digest).message


@pytest.mark.full
def test_what_failed_just_now_fails_without_asking(s3_server: s3.S3, settings: Settings) -> None:
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    s3_server.fail("silence")
    failure(artifacts, digest)
    s3_server.fail("")  # who asked would be answered
    again = failure(artifacts, digest)
    assert "no answer in time" in again.message
    assert again.hint


def test_writers_at_once_wait_for_each_other_and_not_for_ever(s3_server: s3.S3) -> None:
    blobs = Bucket(s3_server.settings())
    s3_server.fail(f"conflict {bucket_module.CONFLICTS - 1}")
    assert blobs.put_new("one", b"first")
    assert blobs.get("one") == b"first"
    s3_server.fail(f"conflict {bucket_module.CONFLICTS}")
    with pytest.raises(ArtifactsUnavailable, match="ConditionalRequestConflict"):
        blobs.put_new("two", b"second")
    s3_server.fail("")
    assert s3_server.objects() == {f"{s3.PREFIX}/one": b"first"}


def test_nobody_there_is_told_at_once(tmp_path: Path, s3_server: s3.S3) -> None:
    nobody = s3.S3()
    artifacts = ArtifactStore.of(Settings(data_dir=tmp_path, artifacts=nobody.settings()))
    assert "no connection" in failure(artifacts, "0" * 64).message


def test_a_bucket_that_is_not_there_says_so(tmp_path: Path, s3_server: s3.S3) -> None:
    named = ArtifactSettings(url="s3://not-made", endpoint_url=s3_server.endpoint_url)
    artifacts = ArtifactStore.of(Settings(data_dir=tmp_path, artifacts=named))
    error = failure(artifacts, "0" * 64)
    assert "NoSuchBucket" in error.message
    assert "TIEBREAK_ARTIFACTS__URL" in error.hint


def test_a_copy_serves_while_the_bucket_is_away(s3_server: s3.S3, settings: Settings) -> None:
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    assert copies(settings) == {}
    artifacts.open_bundle(digest, KEYS)
    assert copies(settings).keys() == {digest}
    s3_server.fail("error")
    assert ArtifactStore.of(settings).open_bundle(digest, KEYS) == PARTS


@pytest.mark.parametrize(
    "data",
    [
        BUNDLE[:-100] + bytes([BUNDLE[-100] ^ 1]) + BUNDLE[-99:],
        BUNDLE[:-1],
        b"",
        make_bundle({"model": b"another one, truly signed"}, KEYS),
    ],
    ids=["altered", "cut", "emptied", "exchanged"],
)
def test_an_altered_copy_is_refused_named_and_replaced(
    s3_server: s3.S3, settings: Settings, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    artifacts.open_bundle(digest, KEYS)
    path = copies(settings)[digest]
    path.write_bytes(data)
    s3_server.fail("error")
    message = failure(ArtifactStore.of(settings), digest).message
    assert str(path) in message
    assert f"s3://{s3.BUCKET}" in message
    s3_server.fail("")
    assert ArtifactStore.of(settings).open_bundle(digest, KEYS) == PARTS
    assert path.read_bytes() == BUNDLE
    assert str(path) in "".join(capsys.readouterr())


def test_only_what_was_verified_is_copied(s3_server: s3.S3, settings: Settings) -> None:
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    data = bytearray(BUNDLE)
    data[-100] ^= 1
    Bucket(settings.artifacts).put(f"bundles/{digest}.bundle", bytes(data))
    with pytest.raises(BundleAltered):
        artifacts.open_bundle(digest, KEYS)
    assert copies(settings) == {}


def test_copies_used_longest_ago_leave_first(s3_server: s3.S3, tmp_path: Path) -> None:
    bounded = s3_server.settings(cache_bytes=3 * len(BUNDLE))
    settings = Settings(data_dir=tmp_path, artifacts=bounded)
    artifacts = ArtifactStore.of(settings)
    digests = [artifacts.put_bundle(bundle_of(n)[0]) for n in range(5)]
    for digest in digests[:3]:
        artifacts.open_bundle(digest, KEYS)
    artifacts.examine([digests[0]])  # it decides now, and so is in use
    artifacts.open_bundle(digests[1], KEYS)
    artifacts.open_bundle(digests[3], KEYS)
    assert copies(settings).keys() == {digests[0], digests[1], digests[3]}
    large, _ = bundle_of(9, 10 * len(BUNDLE))
    kept = artifacts.put_bundle(large)
    artifacts.open_bundle(kept, KEYS)
    assert copies(settings).keys() == {kept}


def test_a_disk_without_room_takes_no_bundle_away(s3_server: s3.S3, settings: Settings) -> None:
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    settings.bundle_cache_dir.parent.mkdir(parents=True)
    settings.bundle_cache_dir.write_text("a file where a folder should be")
    assert artifacts.open_bundle(digest, KEYS) == PARTS


def test_a_bucket_without_versions_or_encryption_says_how_to_mend_it(
    s3_server: s3.S3, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = s3_server.client()
    client.create_bucket(Bucket="bare")
    client.delete_bucket_encryption(Bucket="bare")
    named = {"url": "s3://bare", "endpoint_url": s3_server.endpoint_url}
    found = {each.code: each for each in Bucket(ArtifactSettings(**named)).problems()}
    assert found.keys() == {"bucket_without_versioning", "bucket_without_encryption"}
    guide = (ROOT / "docs" / "howto" / "artifacts-on-s3.md").read_text()
    for problem in found.values():
        assert f" --endpoint-url {s3_server.endpoint_url} " in problem.hint
        command = problem.hint.replace(f" --endpoint-url {s3_server.endpoint_url}", "")
        assert command.replace("--bucket bare", "--bucket my-artifacts") in guide.splitlines()
    with_key = Bucket(ArtifactSettings(**named, kms_key_id="alias/tiebreak"))
    assert {each.code for each in with_key.problems()} == {"bucket_without_versioning"}


def test_objects_carry_a_checksum_and_are_encrypted_with_the_key(s3_server: s3.S3) -> None:
    Bucket(s3_server.settings()).put("plain", b"abc")
    Bucket(s3_server.settings(kms_key_id="alias/tiebreak")).put("keyed", b"abc")
    client = s3_server.client()

    def head(name: str) -> dict[str, Any]:
        key = f"{s3.PREFIX}/{name}"
        return client.head_object(Bucket=s3.BUCKET, Key=key, ChecksumMode="ENABLED")

    expected = base64.b64encode(hashlib.sha256(b"abc").digest()).decode()
    assert head("plain")["ChecksumSHA256"] == expected
    assert head("keyed")["ServerSideEncryption"] == "aws:kms"
    assert head("keyed")["SSEKMSKeyId"].endswith("alias/tiebreak")


def test_versions_are_kept_of_what_is_replaced(s3_server: s3.S3) -> None:
    place = Bucket(s3_server.settings())
    place.put("alias", b"one")
    place.put("alias", b"two")
    assert len(s3_server.client().list_object_versions(Bucket=s3.BUCKET)["Versions"]) == 2


def test_of_what_is_deleted_no_version_is_left(s3_server: s3.S3) -> None:
    blobs, client = Bucket(s3_server.settings()), s3_server.client()
    for name in ("snapshots/one", "snapshots/one.more"):
        blobs.put(name, b"first")
        blobs.put(name, b"second")
        client.delete_object(Bucket=s3.BUCKET, Key=f"{s3.PREFIX}/{name}")  # leaves a marker
    blobs.delete("snapshots/one")
    left = client.list_object_versions(Bucket=s3.BUCKET, MaxKeys=s3.ALL)
    keys = [each["Key"] for kind in ("Versions", "DeleteMarkers") for each in left[kind]]
    assert keys == [f"{s3.PREFIX}/snapshots/one.more"] * 3


def test_credentials_are_never_logged(
    s3_server: s3.S3, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    artifacts = ArtifactStore.of(settings)
    digest = artifacts.put_bundle(BUNDLE)
    s3_server.fail("error")
    told = str(failure(artifacts, digest)) + caplog.text
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        assert s3.CREDENTIALS[name] not in told


def test_no_credentials_are_told_with_the_next_step(
    s3_server: s3.S3, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in s3.CREDENTIALS:
        if name.startswith(("AWS_ACCESS", "AWS_SECRET", "AWS_SESSION")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(settings.data_dir))
    error = failure(ArtifactStore.of(settings), "0" * 64)
    assert "no credentials" in error.message
    assert "AWS_PROFILE" in error.hint


def test_a_missing_client_names_the_extra(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tiebreak.bundles.bucket")
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(S3Missing) as caught:
        ArtifactStore.of(settings)
    assert "tiebreak[s3]" in caught.value.hint


@pytest.mark.full
def test_the_client_is_imported_only_for_a_bucket() -> None:
    code = (
        "import sys; from tiebreak.web import worker; from tiebreak.tasks import app;"
        "from tiebreak.bundles.artifacts import ArtifactStore;"
        "from tiebreak.settings import Settings; ArtifactStore.of(Settings());"
        "assert 'botocore' not in sys.modules"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TIEBREAK_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=clean)
