"""Artifacts mean the same in a folder and in an S3 bucket."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.keys import KEYRING
from tests.s3 import S3

from tiebreak.bundles.artifacts import (
    ArtifactNameUnfit,
    ArtifactStore,
    BundleMissing,
    CheckpointExists,
    CheckpointMissing,
    ReportMissing,
    SnapshotMissing,
)
from tiebreak.bundles.blobs import ArtifactsUnavailable, Blobs
from tiebreak.bundles.bucket import Bucket
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.format import make_bundle
from tiebreak.bundles.signing import (
    BundleAltered,
    BundleKeys,
    BundleKeyUnknown,
    BundleTruncated,
    BundleUnsigned,
)

BUNDLE_KEYS = BundleKeys(KEYRING.bundle_keys, KEYRING.bundle_signing_key_id)
PARTS = {"manifest.json": b"{}", "model": random.Random(1).randbytes(20_000), "empty": b""}
BUNDLE = make_bundle(PARTS, BUNDLE_KEYS)
WRITERS = 6
NAMES = ("a/one", "a/two", "a/three", "a/four")
OTHER = "0" * 64

Opened = Callable[[], Blobs]


@pytest.fixture(params=["folder", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same place anew, as another process would."""
    if request.param == "folder":
        return lambda: Folder(tmp_path / "artifacts")
    server: S3 = request.getfixturevalue("s3_server")
    return lambda: Bucket(server.settings())


@pytest.fixture(params=["folder", "bucket"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A place that fails whatever it is asked."""
    if request.param == "bucket":
        return Bucket(S3().settings())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").symlink_to("one")  # it leads to itself
    return Folder(tmp_path)


@pytest.fixture
def blobs(opened: Opened) -> Blobs:
    return opened()


@pytest.fixture
def artifacts(opened: Opened) -> ArtifactStore:
    return ArtifactStore(opened())


def test_what_is_put_is_there_for_everyone(blobs: Blobs, opened: Opened) -> None:
    data = random.Random(2).randbytes(3_000_000)
    assert (blobs.has("a/one"), blobs.get("a/one")) == (False, None)
    blobs.put("a/one", data)
    assert (blobs.has("a/one"), opened().get("a/one")) == (True, data)
    blobs.put("a/one", b"")
    assert opened().get("a/one") == b""


def test_what_must_be_new_is_put_once(blobs: Blobs, opened: Opened) -> None:
    assert blobs.put_new("a/one", b"first")
    assert not opened().put_new("a/one", b"second")
    assert blobs.get("a/one") == b"first"


def test_a_place_that_fails_says_so(away: Blobs) -> None:
    for act in (
        lambda: away.get("a/one"),
        lambda: away.put("a/one/two", b""),
        lambda: away.put_new("a/one/two", b""),
        lambda: away.delete("a/one/two"),
    ):
        with pytest.raises(ArtifactsUnavailable) as caught:
            act()
        assert str(away) in caught.value.message
        assert caught.value.hint


def test_of_many_writers_at_once_one_wins(opened: Opened) -> None:
    together = threading.Barrier(WRITERS)

    def write(number: int) -> list[bool]:
        blobs = opened()
        won: list[bool] = []
        for name in NAMES:
            together.wait()
            won.append(blobs.put_new(name, str(number).encode()))
        return won

    with ThreadPoolExecutor(WRITERS) as writers:
        told = list(writers.map(write, range(WRITERS)))
    for name, won in zip(NAMES, zip(*told, strict=True), strict=True):
        (winner,) = (number for number, is_mine in enumerate(won) if is_mine)
        assert opened().get(name) == str(winner).encode()


def test_what_is_deleted_is_gone_alone_and_may_come_back(blobs: Blobs, opened: Opened) -> None:
    for name in ("a/one", "a/one.json", "a/two"):
        blobs.put(name, b"first")
        blobs.put(name, b"second")
    opened().delete("a/one")
    blobs.delete("a/one")
    assert (blobs.has("a/one"), blobs.get("a/one")) == (False, None)
    assert blobs.names("a") == ("one.json", "two")
    assert blobs.put_new("a/one", b"third")


def test_names_are_those_of_one_folder_in_order(blobs: Blobs) -> None:
    for name in ("a/two", "a/one", "a/sub/three", "ab/four", "five"):
        blobs.put(name, b"x")
    assert blobs.names("a") == ("one", "two")
    assert blobs.names("a", after="one") == ("two",)
    assert blobs.names("a", after="o") == ("one", "two")
    assert blobs.names("a", after="two") == ()
    assert blobs.names("none") == ()


def test_a_sound_place_has_no_problems(blobs: Blobs) -> None:
    assert blobs.problems() == ()


def test_a_bundle_is_found_by_its_digest(artifacts: ArtifactStore) -> None:
    digest = artifacts.put_bundle(BUNDLE)
    assert artifacts.has_bundle(digest)
    assert artifacts.list_bundles() == (digest,)
    assert artifacts.open_bundle(digest, BUNDLE_KEYS) == PARTS
    assert artifacts.put_bundle(BUNDLE) == digest
    with pytest.raises(BundleMissing):
        artifacts.open_bundle(OTHER, BUNDLE_KEYS)
    with pytest.raises(BundleUnsigned):
        artifacts.put_bundle(b"anything" * 40)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (BUNDLE[:-1], BundleTruncated),
        (BUNDLE[:40], BundleTruncated),
        (b"", BundleTruncated),
        (BUNDLE[:-200] + bytes([BUNDLE[-200] ^ 1]) + BUNDLE[-199:], BundleAltered),
        (BUNDLE[:12] + b"key-unknown".ljust(16, b"\0") + BUNDLE[28:], BundleKeyUnknown),
    ],
    ids=["cut", "cut within the header", "emptied", "altered", "wrongly keyed"],
)
def test_what_was_altered_where_it_lies_is_refused(
    blobs: Blobs, artifacts: ArtifactStore, data: bytes, refusal: type[Exception]
) -> None:
    digest = artifacts.put_bundle(BUNDLE)
    blobs.put(f"bundles/{digest}.bundle", data)
    with pytest.raises(refusal):
        artifacts.open_bundle(digest, BUNDLE_KEYS)


def test_an_alias_names_a_bundle_that_is_there(artifacts: ArtifactStore) -> None:
    assert artifacts.read_alias("locate", "risk_model_latest") is None
    with pytest.raises(BundleMissing):
        artifacts.set_alias("locate", "risk_model_latest", OTHER)
    digest = artifacts.put_bundle(BUNDLE)
    artifacts.set_alias("locate", "risk_model_latest", digest)
    assert artifacts.read_alias("locate", "risk_model_latest") == digest
    assert artifacts.read_alias("itsm", "risk_model_latest") is None


def test_a_checkpoint_is_written_once(artifacts: ArtifactStore) -> None:
    artifacts.put_checkpoint("one.json", b"first")
    artifacts.put_checkpoint("one.json", b"first")  # as after an answer that was lost
    with pytest.raises(CheckpointExists):
        artifacts.put_checkpoint("one.json", b"second")
    assert artifacts.read_checkpoint("one.json") == b"first"
    with pytest.raises(CheckpointMissing):
        artifacts.read_checkpoint("two.json")


def test_checkpoints_are_listed_in_order_and_from_one_on(artifacts: ArtifactStore) -> None:
    for name in ("b.json", "a.json", "c.json"):
        artifacts.put_checkpoint(name, name.encode())
    assert artifacts.list_checkpoints() == ("a.json", "b.json", "c.json")
    assert artifacts.list_checkpoints(after="a.json") == ("b.json", "c.json")


def test_a_snapshot_is_there_while_its_data_is(artifacts: ArtifactStore, blobs: Blobs) -> None:
    artifacts.put_snapshot(OTHER, b"data", b"{}")
    assert artifacts.has_snapshot(OTHER)
    assert artifacts.list_snapshots() == (OTHER,)
    assert artifacts.read_snapshot(OTHER) == b"data"
    assert artifacts.read_snapshot_manifest(OTHER) == b"{}"
    blobs.delete(f"snapshots/{OTHER}.parquet")  # as where a removal was interrupted
    assert not artifacts.has_snapshot(OTHER)
    assert artifacts.list_snapshots() == ()
    artifacts.delete_snapshot(OTHER)
    assert blobs.names("snapshots") == ()
    for read in (artifacts.read_snapshot, artifacts.read_snapshot_manifest):
        with pytest.raises(SnapshotMissing):
            read(OTHER)


def test_a_report_is_found_by_its_model(artifacts: ArtifactStore) -> None:
    with pytest.raises(ReportMissing):
        artifacts.read_report(OTHER)
    artifacts.put_report(OTHER, b"{}")
    assert artifacts.read_report(OTHER) == b"{}"
    assert artifacts.list_reports() == (OTHER,)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".x", "x" * 129, "a\0"])
def test_a_name_cannot_lead_elsewhere(artifacts: ArtifactStore, name: str) -> None:
    for act in (
        lambda: artifacts.put_checkpoint(name, b""),
        lambda: artifacts.read_alias(name, "risk_model_latest"),
        lambda: artifacts.has_bundle(name),
        lambda: artifacts.delete_snapshot(name),
        lambda: artifacts.put_report(name, b""),
    ):
        with pytest.raises(ArtifactNameUnfit):
            act()


def test_a_bundle_in_use_that_is_gone_is_a_problem(artifacts: ArtifactStore) -> None:
    digest = artifacts.put_bundle(BUNDLE)
    assert artifacts.examine([digest]) == ()
    (problem,) = artifacts.examine([digest, OTHER])
    assert (problem.code, OTHER in problem.message) == ("bundle_missing", True)


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("bundle_length_wrong", BUNDLE[:-9]),
        ("bundle_altered", BUNDLE.replace(b"manifest", b"manifesT")),
        ("bundle_length_wrong", b""),
    ],
    ids=["cut off", "altered", "empty"],
)
def test_a_bundle_in_use_that_was_altered_is_a_problem(
    tmp_path: Path, code: str, data: bytes
) -> None:
    artifacts = ArtifactStore(Folder(tmp_path))
    digest = artifacts.put_bundle(BUNDLE)
    (tmp_path / "bundles" / f"{digest}.bundle").write_bytes(data)
    (problem,) = artifacts.examine([digest])
    assert (problem.code, digest in problem.message) == (code, True)
