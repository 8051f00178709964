"""From history to a judged model by commands: snapshots, leaks, tuning, reports, thresholds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.databases import DatabaseUrls, fetch, run
from tests.functional.places import ROOT, Place

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.core.workflow import Knobs
from tiebreak.ingest.simulator import Simulation, simulate
from tiebreak.registry.candidates import set_knobs
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
    files = ("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    half = END - timedelta(days=200)
    told = found.json(*files, "--known-by", f"{half:%Y-%m-%d}")
    assert 0 < told["tickets"] < simulation.tickets.height
    assert found.json(*files)["tickets"] == simulation.tickets.height - told["tickets"]
    return found


def _artifacts(place: Place) -> ArtifactStore:
    return ArtifactStore(Folder(place.folder / "data" / "artifacts"))


@pytest.fixture
def digest(place: Place) -> str:
    """The hash of a kept snapshot, from which the candidate came."""
    digest: str = place.json("train", "locate", *TRAINING)["data_hash"]
    return digest


@pytest.mark.full
def test_a_snapshot_is_kept_used_again_and_made_again(place: Place) -> None:
    told = place.json("train", "locate", *TRAINING)
    before = place.json("snapshots", "list")["snapshots"]
    (kept,) = (each for each in before if each["hash"] == told["data_hash"])
    assert place.json("train", "locate", *TRAINING)["data_hash"] == kept["hash"]
    assert place.json("snapshots", "list")["snapshots"] == before
    checked = place.json("snapshots", "check", kept["hash"][:8])
    assert checked["is_same"]
    read = kept_snapshots.load(_artifacts(place), kept["hash"])
    assert (read.frame.height, int(read.label.sum())) == (kept["rows"], kept["positives"])


def test_a_snapshot_of_other_code_is_told_of(place: Place, digest: str) -> None:
    assert "was made by" not in place.run("snapshots", "check", digest)[2]
    file: Path = place.folder / "data" / "artifacts" / "snapshots" / f"{digest}.json"
    whole = file.read_text()
    file.write_text(json.dumps({**json.loads(whole), "code_version": "0.0.1"}))
    told = place.json("snapshots", "check", digest)
    assert (told["is_same"], told["code_version"]) == (True, "0.0.1")
    assert "It was made by Tiebreak 0.0.1" in place.run("snapshots", "check", digest)[2]
    file.write_text(whole)


def test_an_altered_snapshot_is_refused(place: Place, digest: str) -> None:
    file: Path = place.folder / "data" / "artifacts" / "snapshots" / f"{digest}.parquet"
    whole = file.read_bytes()
    changed = pl.read_parquet(file).with_columns(pl.col("label.value").reverse())
    changed.write_parquet(file)
    error = place.json("snapshots", "check", digest, code=8)["error"]
    assert error["code"] == "snapshot_altered"
    file.write_bytes(whole)


def _card(place: Place, digest: str) -> str:
    return str(place.json("model", "card", digest, "--format", "md")["card"])


@pytest.mark.full
def test_a_card_tells_how_good_a_model_is_for_parts_of_the_tickets(place: Place) -> None:
    trained = place.json("train", "locate", *TRAINING)
    card = _card(place, trained["bundle_digest"])
    parts = card.partition("## Parts of the tickets")[2].partition("##")[0]
    assert "| part | tickets | bad ends | auc |" in parts
    rows = [line.split(" | ") for line in parts.splitlines() if " = " in line]
    assert "| ticket_type" in {row[0].partition(" = ")[0] for row in rows}
    assert all(int(row[1].replace(",", "")) >= 100 for row in rows)
    assert "A leak was waived" not in card


@pytest.mark.full
def test_erasing_a_ticket_takes_it_from_snapshots(place: Place, digest: str) -> None:
    kept = kept_snapshots.load(_artifacts(place), digest)
    ticket = kept.frame["ticket.id"][0]
    told = place.json("tickets", "erase", "locate", ticket, *BY_ANN, "--yes")
    assert digest in told["removed_snapshots"]
    assert not set(told["removed_snapshots"]) & set(_artifacts(place).list_snapshots())
    again = place.json("train", "locate", *TRAINING)["data_hash"]
    assert again != digest
    rows = kept_snapshots.manifest_of(_artifacts(place), again)["rows"]
    assert rows == kept.frame.height - 1


@pytest.mark.full
def test_families_are_compared_in_a_report(place: Place) -> None:
    files = [place.folder / name for name in ("report.html", "report.md")]
    told = place.json(
        *("train", "locate", *TRAINING, "--trials", 3, "--family", "best"),
        *("--report", files[0], "--report", files[1], "--reviews-a-day", 2),
    )
    alone = place.json("train", "locate", *TRAINING, "--trials", 3, "--family", "best")
    assert alone["bundle_digest"] == told["bundle_digest"]  # looking on changes no model
    report = place.json("reports", "show", told["bundle_digest"])
    again = place.folder / "again.html"
    assert place.run("reports", "show", told["bundle_digest"][:8], "--to", again)[0] == 0
    assert again.read_text() == files[0].read_text()
    (listed,) = place.json("reports", "list")["reports"]
    assert listed["model"] == told["bundle_digest"]
    assert report["bundled"] == listed["bundled"] == told["family"]
    assert report["capacity"]["reviews_a_day"] == pytest.approx(2)
    assert {one["name"] for one in report["contenders"]} == {
        *("xgboost", "lightgbm", "hist_gradient_boosting", "ebm"),
        *("linear", "ensemble", "rules"),
    }
    assert report["slices"].keys() == {"ticket_type", "work_type"}
    html, markdown = (file.read_text() for file in files)
    assert all(sentence.split(":")[0] in html for sentence in report["verdict"]["said"])
    drawings = sorted(place.folder.glob("report-*.svg"))
    assert len(drawings) >= 3
    assert all(f"]({drawing.name})" in markdown for drawing in drawings)


@pytest.mark.parametrize("budget", [("20x",), ("m",), ("20m", "--trials", 3)])
def test_an_unfit_budget_is_refused(place: Place, budget: tuple[object, ...]) -> None:
    error = place.json("train", "locate", *BY_ANN, "--tune", *budget, code=3)["error"]
    assert error["code"] == "budget_unfit"


def test_thresholds_are_chosen_by_capacity_and_cost(place: Place, digest: str) -> None:
    asked = ("thresholds", "locate", "--cost-missed", 500, "--cost-needless", 20)
    file = place.folder / "thresholds.html"
    few = place.json(*asked, "--reviewers", 1, "--tickets-each", 0.5, "--report", file)
    many = place.json(*asked, "--reviewers", 3, "--tickets-each", 10)
    assert few["chosen"]["reviews_a_day"] <= 0.5 < many["chosen"]["reviews_a_day"]
    assert few["knobs"]["probability.critical"] > many["knobs"]["probability.critical"]
    assert "<svg" in file.read_text()
    knobs = set_knobs(Knobs(), {name: str(value) for name, value in few["knobs"].items()})
    assert knobs.probability.critical == few["knobs"]["probability.critical"]
    code, _, err = place.run(*asked, "--reviewers", 1, "--tickets-each", 2)
    assert code == 0
    assert "tiebreak backtest run locate" in err


@pytest.fixture(scope="module")
def in_production(place: Place) -> None:
    """Rules alone decide."""
    place.json("release", "install", "locate", "--model", "none", "--approved-by", "bob", *BY_ANN)


@pytest.mark.full
def test_a_correction_made_when_the_outcome_was_known_does_not_train(
    place: Place, simulation: Simulation, digest: str, in_production: None
) -> None:
    kept = kept_snapshots.load(_artifacts(place), digest)
    ticket = kept.frame["ticket.id"][5]
    (row,) = simulation.tickets.filter(pl.col("ticket_id") == ticket).rows(named=True)
    file = place.folder / "correction.ndjson"
    file.write_text(json.dumps({**row, "crew_size": 99}, default=str))
    told = place.json("decide", file, "--workflow", "locate", "--as", "ann")
    assert (told["decided"], told["rejected"]) == (1, 0)
    made_again = place.json("snapshots", "check", digest)
    assert made_again["is_same"], made_again  # of before the correction
    later = f"{END + timedelta(days=70):%Y-%m-%d}"
    after = place.json("train", "locate", *BY_ANN, "--trees", 5, "--known-by", later)["data_hash"]
    manifest = kept_snapshots.manifest_of(_artifacts(place), after)
    assert manifest["left_out"] == {"revised_after_outcome": 1}
    assert ticket not in kept_snapshots.load(_artifacts(place), after).frame["ticket.id"]
    assert place.json("snapshots", "remove", after[:8]) == {"removed": after}
    assert after not in _artifacts(place).list_snapshots()


@pytest.mark.full
def test_a_leak_stops_a_run_until_it_is_waived(place: Place, in_production: None) -> None:
    """Tickets were decided by other history than training reads."""
    training = ("train", "locate", "--as", "ann", "--trees", 5)
    why = ("--reason", "history was mended")
    place.json("tickets", "decide", "locate", "--since", "2020-01-01", "--as", "ann")
    sound = place.json(*training, *why)["leakage"]
    assert (sound["compared_with_serving"], sound["waived"]) == (500, [])
    place.alter("UPDATE tickets SET context = regexp_replace(context, ':[0-9]+', ':77')")
    error = place.json(*training, *why, code=3)["error"]
    assert error["code"] == "leakage_found"
    names = [leak["feature"] for leak in error["leaks"]]
    assert {leak["kind"] for leak in error["leaks"]} == {"differs_from_serving"}
    waiving = [word for name in names for word in ("--waive-leakage", name)]
    trained = place.json(*training, *waiving, *why)
    waived = trained["leakage"]["waived"]
    assert [leak["feature"] for leak in waived] == names
    limits = _card(place, trained["bundle_digest"]).partition("## Limits")[2]
    assert limits.count("A leak was waived.") == len(names)
    assert all(f"{leak['said']}. Why: history was mended" in limits for leak in waived)
    query = "SELECT result, parameters FROM ml_training_runs ORDER BY started_at DESC LIMIT 2"
    done, stopped = run(fetch(place.urls.admin, query))
    assert (done["result"], stopped["result"]) == ("bundled", "failed")
    assert json.loads(done["parameters"])["waived"] == dict.fromkeys(names, "history was mended")
