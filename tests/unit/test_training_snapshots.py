"""Kept snapshots: the hash is of the values, whatever wrote them, and of every one of them."""

from __future__ import annotations

from dataclasses import replace
from errno import ENOSPC
from pathlib import Path

import polars as pl
import pytest
from tests.sample_models import START, snapshot

from tiebreak.bundles import folder
from tiebreak.bundles.artifacts import ArtifactStore, SnapshotMissing
from tiebreak.bundles.blobs import ArtifactsUnavailable
from tiebreak.bundles.folder import Folder
from tiebreak.training import kept_snapshots
from tiebreak.training.dataset import TICKET_ID, Origin, Snapshot
from tiebreak.training.kept_snapshots import SnapshotUnclear, content_hash, table_of


def taken(rows: int = 300) -> Snapshot:
    """A snapshot as it is read from the store."""
    drawn = snapshot(rows)
    frame = drawn.frame.with_columns(pl.Series(TICKET_ID, [f"t{i}" for i in range(rows)]))
    made = replace(
        drawn,
        frame=frame,
        known_at=drawn.as_of.alias("known_at"),
        weights=pl.Series("weights", [1.5] * rows),
        origin=Origin(START, "rules", 0, {}, {}),
    )
    return replace(made, data_hash=_hash(made))


def _hash(made: Snapshot) -> str:
    return content_hash(table_of(made), made.workflow.version, "rules")


def test_what_is_kept_is_what_was_taken(tmp_path: Path) -> None:
    artifacts, made = ArtifactStore(Folder(tmp_path)), taken()
    kept_snapshots.put(artifacts, *kept_snapshots.dump(made))
    read = kept_snapshots.load(artifacts, made.data_hash)
    assert (
        table_of(read)
        .select(sorted(table_of(read).columns))
        .equals(table_of(made).select(sorted(table_of(made).columns)))
    )
    assert (read.workflow, read.origin, read.data_hash) == (
        made.workflow,
        made.origin,
        made.data_hash,
    )
    assert kept_snapshots.resolve(artifacts, made.data_hash[:6]) == made.data_hash
    with pytest.raises(SnapshotUnclear):
        kept_snapshots.resolve(artifacts, "no")
    with pytest.raises(SnapshotMissing):
        kept_snapshots.load(artifacts, "0" * 64)


def test_the_order_of_columns_and_the_cut_into_chunks_change_no_hash() -> None:
    whole = table_of(taken())
    hashed = content_hash(whole, "w", "r")
    halves = pl.concat([whole[:100], whole[100:]], rechunk=False)
    assert content_hash(halves.select(reversed(whole.columns)), "w", "r") == hashed
    assert content_hash(whole, "w", "other") != hashed
    assert content_hash(whole[1:], "w", "r") != hashed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0, 1], [None, 1]),
        (["", "a"], [None, "a"]),
        (["ab", "c"], ["a", "bc"]),
        (["ab", "c"], ["ab", "d"]),
        ([0.0, 1.0], [float("nan"), 1.0]),
        ([True, False], [False, True]),
        ([1, 2], [1.0, 2.0]),
    ],
)
def test_values_that_differ_differ_in_hash(one: list[object], other: list[object]) -> None:
    hashes = {
        content_hash(pl.DataFrame({"x": values}), "w", "r") for values in (one, other, list(one))
    }
    assert len(hashes) == 2


def test_snapshots_that_hold_a_ticket_are_forgotten_with_it(tmp_path: Path) -> None:
    artifacts = ArtifactStore(Folder(tmp_path))
    made = [taken(300), taken(301)]
    for each in made:
        kept_snapshots.put(artifacts, *kept_snapshots.dump(each))
    assert kept_snapshots.forget(artifacts, "other", "t1") == []
    assert kept_snapshots.forget(artifacts, "sample", "t300") == [made[1].data_hash]
    assert artifacts.list_snapshots() == (made[0].data_hash,)


@pytest.mark.parametrize("lacking", [".parquet", ".json"])
def test_an_interrupted_writing_or_removal_leaves_no_half_snapshot(
    tmp_path: Path, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, made = ArtifactStore(Folder(tmp_path)), taken()
    data, manifest = kept_snapshots.dump(made)
    whole = folder.write_whole

    def interrupted(path: Path, content: bytes) -> None:
        if path.suffix == lacking:
            raise OSError(ENOSPC, "no space left")
        whole(path, content)

    monkeypatch.setattr(folder, "write_whole", interrupted)
    with pytest.raises(ArtifactsUnavailable, match="no space left"):
        kept_snapshots.put(artifacts, data, manifest)
    assert artifacts.list_snapshots() == ()
    assert kept_snapshots.forget(artifacts, "sample", "t1") == []
    monkeypatch.undo()
    kept_snapshots.put(artifacts, data, manifest)
    assert kept_snapshots.load(artifacts, made.data_hash).frame.height == 300
