"""`tiebreak release` as people run it: a changed policy into production, and back."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests import releases as ways
from tests.databases import DatabaseUrls, run
from tests.functional.places import ROOT, Place

from tiebreak.audit.lanes import Lane
from tiebreak.cli import exits
from tiebreak.ingest.simulator import simulate
from tiebreak.release import releases
from tiebreak.release.states import Kind, Stage
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database

END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
START = END - timedelta(days=30)
CHANGE = ("--set", "points.high=34", "--jobs", "1")
WHY = ("--reason", "test")
BY_ANN = (*WHY, "--as", "ann")


@pytest.fixture
def place(database_urls: DatabaseUrls, valkey_url: str, tmp_path: Any) -> Place:
    """`locate` with a little simulated history and its rules in production."""
    found = Place.made(tmp_path, database_urls, valkey_url)
    found.json("workflow", "load", ROOT / "workflows" / "locate", *BY_ANN)
    tickets, events = simulate(3, 40, START, 30).known_by(END).write(tmp_path)
    found.json("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    found.json("release", "install", "locate", "--approved-by", "bob", "--model", "none", *BY_ANN)
    return found


def tried(place: Place, release_id: str) -> None:
    """Let a release go through shadow and its gates."""

    async def work() -> None:
        folder = place.folder / "data"
        keyring = Keyring.load(Settings(data_dir=folder))
        db = await Database.open(place.urls.app, pool_size=2)
        office = ways.office_of(db, await Lane.open(db, "tests", keyring), keyring)
        release = await releases.find(db, release_id)
        await ways.tell(office, release, Kind.SHADOW_STARTED)
        await ways.gated(office, release, Stage.PROMOTION)
        await db.close()

    run(work())


def production(place: Place) -> dict[str, Any]:
    return place.json("release", "status")["production"][0]


@pytest.mark.timeout(300)
def test_a_change_goes_into_production_and_back(place: Place) -> None:
    first = production(place)
    dry = place.json("release", "propose", "locate", *CHANGE, *BY_ANN, "--dry-run")
    assert (dry["dry_run"], dry["release"], dry["backtest"]) == (True, None, None)
    assert [change["part"] for change in dry["changes"]] == ["workflow_version"]
    assert place.json("release", "list")["releases"] == []
    assert len(place.json("workflow", "show", "locate")["versions"]) == 1

    told = place.json("release", "propose", "locate", *CHANGE, *BY_ANN)
    release, policy = told["release"], told["policy_hash"]
    assert told["backtest_tickets"] == 40
    start = release["release_id"][:8]
    assert policy == dry["policy_hash"] == release["policy_hash"]
    assert place.json("backtest", "show", told["backtest"])["evidence"]["policy_hash"] == policy
    assert [each["release_id"] for each in place.json("release", "list")["releases"]] == [
        release["release_id"]
    ]
    assert place.json("release", "list", "--state", "shadow")["releases"] == []
    assert place.json("release", "list", "--author", "bob")["releases"] == []
    assert len(place.json("release", "list", "--author", "ann")["releases"]) == 1

    early = ("release", "approve", start, "--stage", "promotion", "--as", "bob")
    error = place.json(*early, code=5)["error"]
    assert error["code"] == "not_gated"
    for step in ("release shadow start", "release gates"):
        assert f"tiebreak {step} {release['release_id']}" in error["hint"]
    tried(place, start)
    own = place.json("release", "approve", start, "--stage", "promotion", "--as", "ann", code=6)
    assert own["error"]["code"] == "four_eyes"
    assert place.json(*early, "--dry-run")["dry_run"]
    unapproved = place.json("release", "promote", start, *BY_ANN, code=5)
    assert unapproved["error"]["code"] == "not_approved"
    assert "tiebreak release approve" in unapproved["error"]["hint"]
    place.json(*early, "--note", "looks good")
    assert place.json("release", "promote", start, *BY_ANN, "--dry-run")["dry_run"]
    assert production(place) == first
    record = place.json("release", "promote", start, *BY_ANN)["record"]
    assert (record["policy_hash"], record["author"], record["approver"]) == (policy, "ann", "bob")
    shown = place.json("release", "show", start)
    assert shown["state"] == "production"
    assert shown["evaluations"]["promotion"]["is_passed"] is True
    assert "The gates before promotion pass" in place.run("release", "show", start)[1]
    assert [approval["note"] for approval in shown["approvals"]] == ["looks good"]
    assert [event["kind"] for event in shown["events"]] == [
        *("proposed", "shadow_started", "gated", "approved", "promoted")
    ]

    back = ("release", "rollback", "locate", "--to", first["policy"][:8], *BY_ANN)
    assert place.json(*back, "--approved-by", "ann", code=6)["error"]["code"] == "four_eyes"
    place.json(*back, "--approved-by", "bob", "--dry-run")
    assert production(place)["policy"] == policy
    place.json(*back, "--approved-by", "bob")
    assert (production(place)["policy"], production(place)["kind"]) == (
        first["policy"],
        "rollback",
    )
    entries = place.json("release", "history", "locate")["entries"]
    assert [entry["action"] for entry in entries][:4] == [
        *("production.rolled_back", "release.retired"),
        *("production.rollback_approved", "production.promoted"),
    ]
    assert entries[-1]["action"] == "release.installed"
    assert place.json("release", "history")["entries"] == entries  # there is no other workflow
    code, out, _ = place.run("release", "history", "locate")
    assert code == exits.OK
    assert "ann" in out
    assert place.json("audit", "verify")["intact"]


def test_a_refused_proposal_stores_nothing(
    database_urls: DatabaseUrls, valkey_url: str, tmp_path: Any
) -> None:
    empty = Place.made(tmp_path, database_urls, valkey_url)
    empty.json("workflow", "load", ROOT / "workflows" / "locate", *BY_ANN)
    change = ("release", "propose", "locate", "--jobs", "1", *BY_ANN, "--set")
    error = empty.json(*change, "points.high=NaN", code=3)["error"]
    assert error["problems"][0]["where"] == "points.high"
    refused = empty.json(*change, "points.high=41", code=4)["error"]
    assert len(empty.json("workflow", "show", "locate")["versions"]) == 1, refused


@pytest.mark.full
def test_a_demotion_is_signed_by_another_in_time_or_loudly_late(place: Place) -> None:
    error = place.json("release", "demote", "locate", *BY_ANN, code=5)["error"]
    assert error["code"] == "nothing_before"
    told = place.json("release", "propose", "locate", *CHANGE, *BY_ANN)
    start = told["release"]["release_id"][:8]
    tried(place, start)
    place.json("release", "approve", start, "--stage", "promotion", "--as", "bob")
    place.json("release", "promote", start, *BY_ANN)
    now = production(place)
    dry = place.json("release", "demote", "locate", *BY_ANN, "--dry-run")
    assert dry["record"]["policy_hash"] != now["policy"]
    assert production(place) == now
    demoted = place.json("release", "demote", "locate", *BY_ANN)["record"]
    assert (demoted["kind"], demoted["approver"]) == ("demote", None)
    waiting = place.json("release", "status")["demotions"]
    assert [(each["seq"], each["is_overdue"]) for each in waiting] == [(demoted["seq"], False)]

    late = "UPDATE release_records SET created_at = created_at - interval '25 hours'"
    place.alter(f"{late} WHERE kind = 'demote'")
    status = place.json("release", "status", code=5)
    assert status["demotions"][0]["is_overdue"]
    code, out, err = place.run("release", "status")
    assert (code, "OVERDUE" in out, "tiebreak release countersign" in err) == (5, True, True)
    own = place.json("release", "countersign", "locate", "--as", "ann", code=6)["error"]
    assert own["code"] == "own_demotion"
    place.json("release", "countersign", "locate", "--as", "bob", "--dry-run")
    assert place.json("release", "status", code=5)["demotions"]
    place.json("release", "countersign", "locate", "--as", "bob", "--note", "right so")
    assert place.json("release", "status")["demotions"] == []
    again = place.json("release", "countersign", "locate", "--as", "bob", code=4)["error"]
    assert again["code"] == "no_such_demotion"


@pytest.mark.full
@pytest.mark.timeout(300)
def test_when_production_moved_a_release_is_proposed_anew(place: Place) -> None:
    one = place.json("release", "propose", "locate", *CHANGE, *BY_ANN)["release"]
    early = place.json("release", "rebase", one["release_id"], *BY_ANN, code=5)["error"]
    assert early["code"] == "still_current"
    other = ("--set", "points.high=33", "--jobs", "1")
    two = place.json("release", "propose", "locate", *other, *BY_ANN)["release"]
    again = place.json("release", "propose", "locate", *CHANGE, *BY_ANN)
    assert again["backtest"] == one["backtest_id"]  # used again, not run
    tried(place, two["release_id"])
    place.json("release", "approve", two["release_id"], "--stage", "promotion", "--as", "bob")
    place.json("release", "promote", two["release_id"], *BY_ANN)
    shown = place.json("release", "show", one["release_id"])
    assert not shown["is_current"]
    stale = ("--backtest", one["backtest_id"])
    error = place.json("release", "rebase", one["release_id"], *stale, *BY_ANN, code=5)["error"]
    assert error["code"] == "backtest_of_another"
    made = place.json("release", "backtest", one["release_id"], "--jobs", "1", "--as", "ann")
    new = place.json("release", "rebase", one["release_id"], *BY_ANN)
    assert new["backtest"] == made["id"]
    assert new["policy_hash"] == one["policy_hash"]
    assert place.json("release", "show", one["release_id"])["state"] == "voided"
    start = again["release"]["release_id"]
    assert place.json("release", "withdraw", start, *BY_ANN, "--dry-run")["dry_run"]
    assert place.json("release", "show", start)["state"] == "draft"
    place.json("release", "withdraw", start, *BY_ANN)
    assert place.json("release", "show", start)["state"] == "withdrawn"
    by_backtest = ("release", "propose", "locate", "--backtest", made["id"][:10], *BY_ANN)
    assert place.json(*by_backtest)["policy_hash"] == one["policy_hash"]


def test_what_cannot_be_done_is_told_with_a_next_step(place: Place) -> None:
    for words in (
        ("release", "demote", "locat", *BY_ANN),
        ("release", "history", "locat"),
        ("replay", "--workflow", "locat"),
    ):
        error = place.json(*words, code=4)["error"]
        assert (error["code"], error["hint"]) == ("unknown_workflow", "did you mean `locate`?")
    unsearched = place.json("train", "locate", "--tune", "0s", *BY_ANN, code=3)["error"]
    assert unsearched["message"] == "No time is given to search in."
    for line, exit_code, code in (
        ("show 0123", 4, "no_such_release"),
        ("propose locate --reason x", 3, "nothing_changed"),
        ("propose locate --reason x --backtest 0123", 4, "no_such_backtest"),
        ("propose locate --reason x --set points.hihg=3", 3, "knob_mistaken"),
        ("promote 0123 --reason x", 4, "no_such_release"),
        ("rollback locate --to 0123 --approved-by bob --reason x", 4, "unknown_policy"),
        ("rollback locate --to 0123 --approved-by nobody --reason x", 4, "unknown_person"),
        ("countersign locate", 4, "no_such_demotion"),
    ):
        by = () if line.startswith("show") else ("--as", "ann")
        error = place.json("release", *shlex.split(line), *by, code=exit_code)["error"]
        assert error["code"] == code, line
        assert error["hint"] or any(problem["hint"] for problem in error["problems"]), line
