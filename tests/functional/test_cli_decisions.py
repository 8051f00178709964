"""The command line from files to proved decisions: real commands on a real database."""

from __future__ import annotations

import json
import os
import shutil
import struct
import uuid
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest
from tests import releases
from tests.databases import DatabaseUrls, fetch, run
from tests.functional.places import ROOT, Place

from tiebreak.cli import exits
from tiebreak.cli.session import Session, act, look
from tiebreak.decisions.replay import Cause, replay
from tiebreak.fingerprint import engine_fingerprint
from tiebreak.ingest.simulator import Simulation, simulate
from tiebreak.registry.proposals import propose
from tiebreak.store import reading
from tiebreak.training.fit import FAMILIES

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
END = MIDNIGHT - timedelta(days=31)  # of history; live tickets come after it
START = END - timedelta(days=400)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(3, 2_500, START, 430)


@pytest.fixture(scope="module")
def place(
    module_database_urls: DatabaseUrls,
    valkey_url: str,
    simulation: Simulation,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """`locate` with simulated history and a trained model in production, all by commands."""
    folder = tmp_path_factory.mktemp("place with spaces")
    found = Place.made(folder, module_database_urls, valkey_url)
    found.json(
        "workflow", "load", ROOT / "workflows" / "locate", "--reason", "first", "--as", "ann"
    )
    tickets, events = simulation.known_by(END).write(folder)
    importing = ("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    for more in (["--dry-run"], []):  # a dry run leaves everything to be imported
        imported = found.json(*importing, *more)
        assert imported["tickets"] == simulation.known_by(END).tickets.height
        assert imported["rejected"] == 0
    found.process("train", "locate", *TRAINING)
    install = ("release", "install", "locate", "--approved-by", "bob", *BY_ANN)
    refused = found.json(*install, code=5)["error"]
    assert refused["code"] == "first_model_not_gated"
    assert "--model none" in refused["hint"]
    found.json(*install, "--without-gates")
    return found


BY_ANN = ("--as", "ann", "--reason", "test")
TRAINING = (*BY_ANN, "--trees", 40, "--known-by", f"{END:%Y-%m-%d}")


@pytest.fixture(scope="module")
def live(place: Place, simulation: Simulation) -> tuple[Path, list[dict[str, Any]]]:
    """A file of live tickets with two bad rows in its middle, and the decisions on it."""
    rows = simulation.opened_from(END).tickets.head(50).rows(named=True)
    lines = [json.dumps(row, default=_plain) for row in rows]
    lines[30] = json.dumps({"ticket_id": "bad", "opened_at": "yesterday", "depht_ft": 1})
    lines[40] = json.dumps(rows[40] | {"opened_at": "2150-01-01T00:00:00Z"}, default=_plain)
    file = place.folder / "live.ndjson"
    file.write_text("\n".join(lines))
    told = place.process("decide", file, "--workflow", "locate", "--as", "ann")
    assert (told["rows"], told["decided"], told["rejected"]) == (50, 48, 2)
    rejects = [json.loads(line) for line in Path(told["rejects"]).read_text().splitlines()]
    assert [each["row"] for each in rejects] == [31, 41]
    assert [each["code"] for each in rejects[1]["problems"]] == ["opened_in_future"]
    return file, _decisions(told)


def _plain(value: object) -> object:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)  # type: ignore[attr-defined]


def _decisions(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(told["decisions"]).read_text().splitlines()]


def test_decisions_of_a_file_are_scored_and_in_its_order(
    live: tuple[Path, list[dict[str, Any]]], simulation: Simulation
) -> None:
    _, decisions = live
    order = simulation.opened_from(END).tickets.head(50)["ticket_id"].to_list()
    assert [d["ticket_id"] for d in decisions] == order[:30] + order[31:40] + order[41:]
    assert {d["model"]["status"] for d in decisions} == {"scored"}


def test_deciding_a_file_again_gives_the_same_decisions(
    place: Place, live: tuple[Path, list[dict[str, Any]]]
) -> None:
    file, decisions = live
    out = place.folder / "again.ndjson"
    told = place.json("decide", file, "--workflow", "locate", "--out", out, "--as", "ann")
    assert _decisions(told) == decisions


def test_importing_again_imports_nothing(place: Place, simulation: Simulation) -> None:
    tickets, events = simulation.known_by(END).write(place.folder)
    again = place.json("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    assert again["tickets"] == 0
    assert again["already"] >= simulation.known_by(END).tickets.height


def test_a_strict_import_of_a_bad_row_imports_nothing(place: Place, simulation: Simulation) -> None:
    older = simulate(4, 20, START - timedelta(days=30), 10).tickets
    file = place.folder / "older.ndjson"
    file.write_text(older.select("ticket_id", "opened_at").write_ndjson())
    error = place.json("import", "locate", file, "--strict", *BY_ANN[:2], code=3)["error"]
    assert error["code"] == "rows_rejected"
    assert not _stored(place, "older", older)


def _stored(place: Place, name: str, tickets: pl.DataFrame) -> bool:
    """Whether any of the tickets is stored."""
    code, _, _ = place.run("tickets", "erase", "locate", tickets["ticket_id"][0], "--reason", name)
    return code != 4


def test_the_same_data_and_seed_give_the_same_bundle(place: Place) -> None:
    again = place.json("train", "locate", *TRAINING)
    assert again["bundle_digest"] == place.json("release", "status")["production"][0]["model"]
    assert again["metrics"]["auc"] > 0.6


@pytest.mark.full
def test_the_better_family_is_taken_and_both_are_told(place: Place) -> None:
    told = place.json("train", "locate", *TRAINING, "--family", "best")
    ranked = {family: figures["pr_auc"] for family, figures in told["families"].items()}
    assert ranked.keys() == set(FAMILIES)
    assert told["metrics"]["pr_auc"] == ranked[told["family"]] == max(ranked.values())
    code, out, _ = place.run("train", "locate", *TRAINING, "--family", "best")
    assert code == exits.OK
    assert "PR-AUC of lightgbm" in out
    runs = run(
        fetch(
            place.urls.admin,
            "SELECT parameters, metrics FROM ml_training_runs ORDER BY started_at DESC LIMIT 1",
        )
    )
    assert json.loads(runs[0]["parameters"])["family"] == "best"
    metrics = json.loads(runs[0]["metrics"])
    assert (metrics["family"], metrics["families"]) == (told["family"], told["families"])


def promote(place: Place, alias: str | None) -> None:
    """Put the newest version, and the model of this alias or none, into production."""

    async def work(session: Session) -> None:
        digest = None if alias is None else session.artifacts.read_alias("locate", alias)
        found = await propose(
            session.db,
            session.library(),
            session.keyring,
            "locate",
            ordinal=None,
            digest=digest,
        )
        folder = session.settings.artifacts_dir
        await releases.put(session.db, session.lane, session.keyring, found.parts, artifacts=folder)

    with patch.dict(os.environ, place.environment, clear=True):
        act("ann", work)


def test_only_the_first_policy_is_installed(place: Place) -> None:
    arguments = ("release", "install", "locate", *BY_ANN, "--approved-by", "bob")
    error = place.json(*arguments, code=5)["error"]
    assert error["code"] == "already_in_production"
    (row,) = place.json("release", "status")["production"]
    assert (row["kind"], row["is_gated"]) == ("install", False)
    _, out, _ = place.run("release", "status")
    assert "locate: its model was installed without gates." in out
    card = place.json("model", "card", row["model"][:12])["card"]
    assert "approved by bob: installed without gates" in card


@pytest.mark.full
def test_a_command_asks_for_the_role_that_http_asks_for(place: Place) -> None:
    roles = {"rev": "reviewer", "sys": "service", "aud": "auditor", "lea": "lead"}
    for person, role in roles.items():
        place.json("keys", "create", "--person", person, "--role", role)
    why = ("--reason", "test")
    change = ("release", "propose", "locate", "--set", "points.high=41", *why, "--dry-run")
    for person in roles:
        error = place.json(*change, "--as", person, code=6)["error"]
        assert (error["code"], error["roles"]) == ("role_missing", ["ml_engineer"])
    place.json(*change, "--as", "ann")
    for person in ("rev", "sys", "aud"):
        for command, *words in (
            ("demote", "locate", *why),
            ("canary", "stop", "0000", *why),
            ("shadow", "stop", "0000", *why),
            ("gates", "0000"),
            ("approve", "0000", "--stage", "promotion"),
            ("countersign", "locate"),
            ("promote", "0000", *why),
            ("withdraw", "0000", *why),
        ):
            refused = place.json("release", command, *words, "--as", person, code=6)["error"]
            assert refused["code"] == "role_missing", command
        for words in (
            ("train", "locate", *why),
            ("train", "locate", *why, "--detach"),
            ("training", "cancel", "0000", *why),
            ("tickets", "decide-again", "locate", "nobody", *why),
            ("tickets", "decide-again", "locate", "--since", "2026-01-01", *why),
        ):
            refused = place.json(*words, "--as", person, code=6)["error"]
            assert refused["code"] == "role_missing", words
    # one who approves needs the role too, and what is over counts no more
    back = ("release", "rollback", "locate", "--to", "00", "--as", "ann", *why, "--approved-by")
    assert place.json(*back, "aud", code=6)["error"]["code"] == "role_missing"
    key = place.json("keys", "create", "--person", "lea", "--role", "approver")["key_id"]
    assert place.json(*back, "lea", code=4)["error"]["code"] == "unknown_policy"
    place.json("keys", "revoke", key, *why)
    assert place.json(*back, "lea", code=6)["error"]["code"] == "role_missing"


def test_nobody_approves_a_policy_of_their_own(place: Place) -> None:
    arguments = ("release", "install", "locate", *BY_ANN, "--approved-by")
    assert place.json(*arguments, "ann", code=6)["error"]["code"] == "four_eyes"
    error = place.json(*arguments, "bod", code=4)["error"]
    assert error["code"] == "unknown_person"
    assert "bob" in error["hint"]


def test_a_dry_installation_shows_what_would_change(place: Place) -> None:
    before = place.json("release", "status")
    told = place.json(
        *("release", "install", "locate", "--model", "none", "--approved-by", "bob"),
        *(*BY_ANN, "--dry-run"),
    )
    assert not told["installed"]
    assert [(c["part"], c["after"]) for c in told["changes"]] == [("bundle_digest", None)]
    assert place.json("release", "status") == before


def test_people_who_are_not_known_cannot_act(place: Place) -> None:
    error = place.json("train", "locate", "--as", "nobody", "--reason", "test", code=4)["error"]
    assert error["code"] == "unknown_person"


@pytest.mark.usefixtures("live")
def test_every_decision_replays_bit_for_bit(place: Place) -> None:
    told = place.json("replay", "--all")
    assert told["replayed"] == told["identical"] > 0


def test_one_decision_replays(place: Place, live: tuple[Path, list[dict[str, Any]]]) -> None:
    decision_id = live[1][0]["decision_id"]
    assert place.json("replay", "--id", decision_id)["identical"] == 1
    for unknown in ("nothing", decision_id.replace(decision_id[-4:], "0000")):
        assert place.json("replay", "--id", unknown, code=4)["error"]["code"] == "unknown_decision"
    assert place.json("replay", "--all", "--sample", 3, code=3)["error"]["code"] == "invalid_input"


def replayed_as(place: Place, decision_id: str, **columns: Any) -> tuple[Cause, tuple[str, ...]]:
    """How the decision replays where it is stored with these columns instead of its own."""

    async def work(session: Session) -> tuple[Cause, tuple[str, ...]]:
        decision = await reading.decision(session.db, uuid.UUID(decision_id))
        assert decision is not None
        key = (decision["workflow"], decision["ticket_id"], decision["revision"])
        ticket = await reading.ticket(session.db, *key)
        assert ticket is not None
        changed = {name: change(decision[name]) for name, change in columns.items()}

        async def one() -> AsyncGenerator[list[tuple[Any, Any]]]:
            yield [({**decision, "fingerprint": "another engine", **changed}, ticket)]

        report = await replay(one(), session.library())
        (cause,) = report.counts
        return cause, next((each.columns for each in report.unexpected), ())

    with patch.dict(os.environ, place.environment, clear=True):
        return look(work)


def nudged(by: float) -> Callable[[Any], Any]:
    """Adds to a float, to the last float of bytes, or to every float among the values of rules."""

    def change(value: Any) -> Any:
        if isinstance(value, bytes):
            return value[:-8] + struct.pack("<d", struct.unpack("<d", value[-8:])[0] + by)
        if isinstance(value, str):
            fired = json.loads(value)
            for rule in fired:
                for name, each in rule["values"].items():
                    if isinstance(each, float):
                        rule["values"][name] = each + by
            return json.dumps(fired)
        return value + by

    return change


FLOATS = ("margin", "score", "base_value", "contributions", "fired")
EXACTLY: dict[str, Callable[[Any], Any]] = {
    "band": lambda band: (band + 1) % 4,
    "rules_band": lambda band: (band + 1) % 4,
    "model_band": lambda band: (band + 1) % 4,
    "hard_floor": lambda floor: 3 if floor is None else None,
    "route": lambda route: "auto" if route == "review" else "review",
    "route_reason": lambda reason: "agreed" if reason == "distance" else "distance",
    "is_tie": lambda is_tie: not is_tie,
    "review_probability": nudged(1e-9),
    "rules_points": lambda points: points + 1,
    "errors": lambda _: '[{"where": "rule x", "code": "overflow"}]',
    "fired": lambda fired: json.dumps([*json.loads(fired), {"rule": "x", "values": {}}]),
    "contributions": lambda found: found[:-8],
    "score": lambda _: None,
}


@pytest.fixture(scope="module")
def with_floats(live: tuple[Path, list[dict[str, Any]]]) -> str:
    """A decision one of whose rules read a float."""
    return next(
        decision["decision_id"]
        for decision in live[1]
        for rule in decision["rules"]["fired"]
        if any(isinstance(value, float) for value in rule["values"].values())
    )


@pytest.mark.parametrize("column", FLOATS)
def test_another_engine_is_the_cause_where_floats_differ_by_little(
    place: Place, with_floats: str, column: str
) -> None:
    little = replayed_as(place, with_floats, **{column: nudged(5e-7)})
    assert little == (Cause.FINGERPRINT, ())
    much = replayed_as(place, with_floats, **{column: nudged(2e-6)})
    assert much == (Cause.DIFFERENT, (column,))
    same_engine = {"fingerprint": lambda _: engine_fingerprint().hash, column: nudged(5e-7)}
    assert replayed_as(place, with_floats, **same_engine) == (Cause.DIFFERENT, (column,))


@pytest.mark.parametrize("column", EXACTLY)
def test_another_engine_is_no_cause_of_anything_else(
    place: Place, with_floats: str, column: str
) -> None:
    found = replayed_as(place, with_floats, **{column: EXACTLY[column]})
    assert found == (Cause.DIFFERENT, (column,))


@pytest.mark.usefixtures("live")
def test_the_trail_is_intact(place: Place) -> None:
    assert place.json("audit", "checkpoint")["checkpoint"].endswith(".json")
    told = place.json("audit", "verify")
    assert told["intact"]
    assert told["verified"] > 2_500


def test_an_altered_decision_is_named_by_audit_and_replay(
    place: Place, live: tuple[Path, list[dict[str, Any]]]
) -> None:
    decision_id = live[1][7]["decision_id"]
    change = "UPDATE decisions SET rules_points = rules_points {} 1 WHERE decision_id = '{}'"
    place.alter(change.format("+", decision_id))
    try:
        error = place.json("audit", "verify", code=8)["error"]
        assert error["findings"][0]["cause"] == "record_altered"
        assert decision_id in error["message"]
        differing = place.json("replay", "--all", code=8)["error"]["decisions"]
        assert [d["decision_id"] for d in differing] == [decision_id]
        assert "rules_points" in differing[0]["columns"]
    finally:
        place.alter(change.format("-", decision_id))
    assert place.json("audit", "verify")["intact"]


def test_an_erased_ticket_is_gone_and_the_trail_holds(
    place: Place, live: tuple[Path, list[dict[str, Any]]]
) -> None:
    decision = live[1][11]
    erase = ("tickets", "erase", "locate", decision["ticket_id"], *BY_ANN)
    assert place.json(*erase)["erased_records"] == 0
    assert place.json("replay", "--id", decision["decision_id"])["identical"] == 1
    assert place.json(*erase, "--yes")["erased_records"] == 2
    assert place.json("replay", "--id", decision["decision_id"])["causes"] == {"erased": 1}
    assert place.json("audit", "verify")["erased"] == 2
    again = ("tickets", "decide-again", "locate", decision["ticket_id"], *BY_ANN)
    assert place.json(*again, code=4)["error"]["code"] == "erased_ticket"
    journal = place.json("audit", "list", "--action", "ticket.erased")["entries"]
    assert [entry["actor"] for entry in journal] == ["ann"]


def test_the_journal_is_narrowed(place: Place) -> None:
    everything = place.json("audit", "list", "--limit", 500)["entries"]
    assert [entry["at"] for entry in everything] == sorted(
        (entry["at"] for entry in everything), reverse=True
    )
    by_ann = place.json("audit", "list", "--actor", "ann", "--limit", 500)["entries"]
    assert by_ann == [entry for entry in everything if entry["actor"] == "ann"] != []
    installed = place.json("audit", "list", "--action", "release.installed")["entries"]
    assert {entry["action"] for entry in installed} == {"release.installed"}
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    assert place.json("audit", "list", "--since", tomorrow)["entries"] == []
    told = place.json("audit", "list", "--until", tomorrow, "--limit", 1)["entries"]
    assert told == everything[:1]
    code, out, _ = place.run("audit", "list", "--action", "release.installed")
    assert code == exits.OK
    assert "Journal" in out


@pytest.mark.full
def test_an_assessment_has_intervals_and_puts_another_model_beside(place: Place) -> None:
    since = ("--since", f"{END - timedelta(days=90):%Y-%m-%d}")
    decide = ("tickets", "decide", "locate", *since, "--as", "ann")
    asked = place.json(*decide, "--dry-run")["tickets"]
    assert asked > 100
    assert place.json(*decide)["decided"] == asked
    assert place.json(*decide, "--dry-run")["tickets"] == 0
    model = place.json("model", "list")["models"][-1]["digest"]  # the first, in production
    told = place.json("assess", "locate", *since, "--beside", model, "--as", "ann")
    assert told["beside"]["tickets"] == told["model"]["rows"] > 100
    for name in ("auc", "pr_auc", "brier"):
        for of in ("model", "rules", "difference"):
            figure = told["figures"][of][name]
            assert figure["low"] <= figure["value"] <= figure["high"]
        # the model in production says of its own tickets what it said
        assert told["beside"]["figures"][name] == told["figures"]["model"][name]
        assert told["beside"]["difference"][name] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert told["beside"]["microseconds_a_ticket"] > 0
    code, out, _ = place.run("assess", "locate", *since, "--as", "ann")
    assert code == exits.OK
    assert "rules alone" in out
    refused = place.json("assess", "locate", *since, "--beside", "none", "--as", "ann", code=3)
    assert refused["error"]["code"] == "no_model_beside"


@pytest.mark.full
def test_tickets_are_decided_again_on_request(
    place: Place, live: tuple[Path, list[dict[str, Any]]]
) -> None:
    """The last test that needs the policy of the others: it puts another into production."""
    first = live[1][3]
    ticket = ("tickets", "decide-again", "locate", first["ticket_id"])
    window = ("tickets", "decide-again", "locate", "--since", f"{END:%Y-%m-%d}")
    assert place.json(*ticket, *BY_ANN)["decision_id"] == first["decision_id"]
    assert place.json(*window, "--dry-run", *BY_ANN)["tickets"] == 0

    promote(place, None)
    again = place.json(*ticket, "--revision", 1, *BY_ANN)
    assert (again["ordinal"], again["model"]) == (2, {"status": "absent"})
    assert datetime.fromisoformat(again["as_of"]) == datetime.fromisoformat(first["as_of"])
    left = place.json(*window, "--dry-run", *BY_ANN)["tickets"]
    assert left > 40
    assert place.json(*window, *BY_ANN) == {"workflow": "locate", "dry_run": False, "tickets": left}
    assert place.json(*window, "--dry-run", *BY_ANN)["tickets"] == 0
    code, out, _ = place.run(*ticket, *BY_ANN)
    assert code == exits.OK
    assert "decision 2" in out

    replayed = place.json("replay", "--all")
    assert sum(replayed["causes"].values()) >= 48 + 1 + left
    assert replayed["causes"].keys() <= {"identical", "erased"}
    assert place.json("audit", "verify")["intact"]
    journal = place.json("audit", "list", "--action", "tickets.decided_again")["entries"]
    assert [entry["detail"]["decisions"] for entry in journal] == [left]
    assert journal[0]["detail"]["reason"] == "test"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("t", "--since", "2026-01-01"),
        ("t", "--dry-run"),
        ("--since", "2026-01-01", "--revision", 1),
    ],
)
def test_one_ticket_or_a_window(place: Place, arguments: tuple[object, ...]) -> None:
    told = place.json("tickets", "decide-again", "locate", *arguments, *BY_ANN, code=3)
    assert told["error"]["code"] == "invalid_input"
    error = place.json("tickets", "decide-again", "locate", "nobody", *BY_ANN, code=4)["error"]
    assert error["code"] == "ticket_unknown"


def test_tables_for_people_name_what_matters(place: Place) -> None:
    code, out, _ = place.run("release", "status")
    assert code == exits.OK
    assert "locate" in out
    assert place.run("decide", "missing.csv", "--workflow", "locate")[0] == 3
    code, _, err = place.run("train", "locat", *BY_ANN)
    assert code == 4
    assert "locate" in err


@pytest.mark.timeout(300)
@pytest.mark.full
def test_a_new_history_feature_is_rebuilt_trained_and_installed(
    place: Place, live: tuple[Path, list[dict[str, Any]]], simulation: Simulation
) -> None:
    """The way of docs/howto/change-history-features.md; comes last, for it changes production."""
    folder = place.folder / "locate"
    shutil.copytree(ROOT / "workflows" / "locate", folder)
    with (folder / "features.yaml").open("a") as features:
        features.write("  site_tickets_7d: {entity: site, aggregate: count, window_days: 7}\n")
        features.write(
            "  city_damages: {entity: city, aggregate: count, on: outcome, where: damage}\n"
        )
    place.json("workflow", "load", folder, *BY_ANN)
    installing = ("release", "install", "locate", "--approved-by", "bob", *BY_ANN)
    for refused in (("train", "locate", *TRAINING), (*installing, "--model", "none")):
        error = place.json(*refused, code=5)["error"]
        assert error["code"] == "history_not_ready"
        assert "`tiebreak history rebuild locate`" in error["hint"]

    rebuilding = ("history", "rebuild", "locate", "--as", "ann")
    would = place.json(*rebuilding, "--dry-run")
    assert not would["rebuilt"]
    assert len(would["added"]) == 1  # the other feature reads a total that is kept already
    built = place.json(*rebuilding)
    assert (built["generation"], built["added"]) == (2, would["added"])
    assert place.json(*rebuilding)["added"] == []

    before = place.json("release", "status")["production"][0]["policy"]
    rows = simulation.opened_from(END).tickets.slice(50, 10).rows(named=True)
    early, late = (place.folder / f"{name}.ndjson" for name in ("early", "late"))
    early.write_text("\n".join(json.dumps(row, default=_plain) for row in rows[:5]))
    late.write_text("\n".join(json.dumps(row, default=_plain) for row in rows[5:]))
    by_old = _decisions(place.json("decide", early, "--workflow", "locate", "--as", "ann"))
    assert len(by_old) == 5
    assert {d["policy_hash"] for d in by_old} == {before}

    place.process("train", "locate", *TRAINING)
    promote(place, "risk_model_candidate")
    by_new = _decisions(place.json("decide", late, "--workflow", "locate", "--as", "ann"))
    assert {d["model"]["status"] for d in by_new} == {"scored"}
    assert {d["policy_hash"] for d in by_new}.isdisjoint({before})
    contexts = run(
        fetch(
            place.urls.admin,
            "SELECT context FROM tickets WHERE ticket_id = "
            f"ANY(ARRAY{[row['ticket_id'] for row in rows[5:]]}) AND context LIKE '%@7d%'",
        )
    )
    assert contexts
    told = place.json("replay", "--all")
    assert told["causes"].keys() <= {"identical", "erased"}
    assert told["identical"] >= len(by_old) + len(by_new)
    assert place.json("audit", "verify")["intact"]
