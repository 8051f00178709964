"""From history to a judged model by commands: snapshots, leaks, tuning, reports, thresholds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.databases import DatabaseUrls
from tests.functional.places import ROOT, Place

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.ingest.simulator import Simulation, simulate
from tiebreak.training import kept_snapshots

END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
BY_ANN = ("--as", "ann", "--reason", "test")
TRAINING = (*BY_ANN, "--trees", 20, "--known-by", f"{END:%Y-%m-%d}")


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(3, 2_500, END - timedelta(days=400), 400)


@pytest.fixture(scope="module")
def place(
    module_database_urls: DatabaseUrls,
    valkey_url: str,
    simulation: Simulation,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """`locate` with simulated history."""
    folder = tmp_path_factory.mktemp("training")
    found = Place.made(folder, module_database_urls, valkey_url)
    found.json("workflow", "load", ROOT / "workflows" / "locate", *BY_ANN)
    tickets, events = simulation.write(folder)
    found.json("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    return found


def _artifacts(place: Place) -> ArtifactStore:
    return ArtifactStore(place.folder / "data" / "artifacts")


def test_a_snapshot_is_kept_used_again_and_made_again(place: Place) -> None:
    told = place.json("train", "locate", *TRAINING)
    (kept,) = place.json("snapshots", "list")["snapshots"]
    assert kept["hash"] == told["data_hash"]
    assert place.json("train", "locate", *TRAINING)["data_hash"] == kept["hash"]
    assert len(_artifacts(place).list_snapshots()) == 1
    checked = place.json("snapshots", "check", kept["hash"][:8])
    assert checked["is_same"]
    read = kept_snapshots.load(_artifacts(place), kept["hash"])
    assert (read.frame.height, int(read.label.sum())) == (kept["rows"], kept["positives"])


def test_an_altered_snapshot_is_refused(place: Place) -> None:
    (digest,) = _artifacts(place).list_snapshots()
    file: Path = place.folder / "data" / "artifacts" / "snapshots" / digest / "data.parquet"
    whole = file.read_bytes()
    changed = pl.read_parquet(file).with_columns(pl.col("label.value").reverse())
    changed.write_parquet(file)
    error = place.json("snapshots", "check", digest, code=8)["error"]
    assert error["code"] == "snapshot_altered"
    file.write_bytes(whole)


def test_erasing_a_ticket_takes_it_from_snapshots(place: Place) -> None:
    (digest,) = _artifacts(place).list_snapshots()
    kept = kept_snapshots.load(_artifacts(place), digest)
    ticket = kept.frame["ticket.id"][0]
    told = place.json("tickets", "erase", "locate", ticket, *BY_ANN, "--yes")
    assert told["removed_snapshots"] == [digest]
    assert _artifacts(place).list_snapshots() == ()
    place.json("train", "locate", *TRAINING)
    (again,) = place.json("snapshots", "list")["snapshots"]
    assert again["hash"] != digest
    assert again["rows"] == kept.frame.height - 1
