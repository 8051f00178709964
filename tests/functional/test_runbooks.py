"""The runbooks, command by command, on a running stack."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator

import asyncpg
import orjson
import pytest
from tests.databases import run
from tests.functional.machines import Machine, machine
from tests.functional.places import ROOT

from tiebreak.embedded.postgres import PostgresServer

RUNBOOKS = ROOT / "docs" / "runbooks"
LEAST = 50
# Nobody waits for weeks here, so gates that weeks of tickets and their ends answer are left out.
RELEASE = f"""
release:
  canary: required
  canary_steps: [{{percent: 25, hours: 0, tickets: 1}}, {{percent: 50, hours: 0, tickets: 5}}]
  gates:
    volume: {{tickets: {LEAST}, days: 0}}
    backtest: {{flips: 1, missed: 10, needless: 10, hours: 10, cost: 10}}
    labels: null
    pr_auc: null
    auc: null
    recall: null
    calibration: null
    slices: null
    leakage: null
    shift: null
    flips: null
    latency: null
"""


@pytest.fixture
def first() -> Generator[Machine]:
    """`locate` with a model in production, trained on a little history, and its API."""
    made = machine("runbooks")
    try:
        key = made.tiebreak("keys create --person ann --role lead")
        made.names |= {"API_KEY": key["key"], "KEY": key["key_id"]}
        sender = made.tiebreak("keys create --person ann --role service")
        made.names["SENDER"] = sender["key"]
        # one of her own that stays when the other is revoked
        made.shell("tiebreak keys create --person ann --role ml_engineer")
        made.shell("tiebreak keys create --person bob --role approver")
        made.edit_workflow("workflow.yaml", lambda text: text + RELEASE)
        made.learn()
        made.shell("tiebreak up --detach")
        made.ready("ready")
        yield made
    finally:
        made.down()


@pytest.fixture
def second() -> Generator[Machine]:
    made = machine("restored")
    yield made
    made.down()


FORGED = """
    INSERT INTO release_records
    SELECT (jsonb_populate_record(r, jsonb_build_object(
        'seq', production_seq(workflow) + 1, 'mac', '\\x00', 'policy_hash', $1::text,
        'bundle_digest', NULL, 'kind', 'demote', 'approver', NULL, 'release_id', NULL))).*
    FROM release_records r WHERE workflow = 'locate' ORDER BY seq DESC LIMIT 1
"""


def forge(machine: Machine) -> None:
    """Write a release record past the code, as one with the database's passwords could."""
    folder = machine.data_dir
    lines = (folder / "services" / "postgres" / "postmaster.pid").read_text().splitlines()
    password = (folder / "secrets" / "superuser.password").read_text().strip()
    server = PostgresServer(int(lines[0]), int(lines[3]), None, password, adopted=True)

    async def work() -> None:
        database = await asyncpg.connect(server.url("tiebreak"))
        await database.execute("SET session_replication_role = replica")
        await database.execute(FORGED, machine.names["POLICY"])
        await database.close()

    run(work())
    machine.ready("degraded")


@pytest.mark.full
@pytest.mark.timeout(1_500)
def test_what_was_forged_or_lost_is_mended(first: Machine) -> None:
    installed = first.production()
    first.names["POLICY"] = installed["policy"]
    page = RUNBOOKS / "bad-artifact.md"
    forge(first)
    first.follow(page, 3, 4)
    assert first.production()["policy"] == installed["policy"]
    forge(first)
    first.follow(page, 5)
    assert (first.production()["policy"], first.production()["kind"]) == (
        *(installed["policy"], "rollback"),
    )
    forge(first)
    first.follow(page, 6)
    assert first.production()["model"] is None
    first.ready("ready")
    first.follow(RUNBOOKS / "rollback.md", 1)
    first.follow(page, 7, 8, 9)
    assert first.tiebreak("release list")["releases"][0]["state"] == "draft"


@pytest.mark.full
@pytest.mark.timeout(1_500)
def test_keys_that_got_out_are_replaced(first: Machine) -> None:
    secrets = first.data_dir / "secrets"
    page = RUNBOOKS / "key-rotation-and-compromise.md"
    first.follow(page, *range(7))
    assert first.production()["model"] is None
    first.ready("ready")
    (trained, old) = first.tiebreak("model list")["models"]
    assert trained["key_id"] == "k2"
    assert "revoked" in old["problem"]

    # where models are trained: `ed-1` signs, and what it signed is trusted
    first.shell("tiebreak model keygen ed-1")
    (secrets / "bundle.current").write_text("ed-1")
    first.shell("tiebreak model renew " + trained["digest"])
    (secrets / "bundle.k2.key").unlink()
    first.follow(page, 7)
    (renewed,) = [m for m in first.tiebreak("model list")["models"] if m["problem"] is None]
    assert (renewed["digest"], renewed["key_id"]) == (trained["digest"], "ed-2")
    first.follow(page, 8)
    assert (secrets / "bundle.revoked").read_text().split() == ["k1", "ed-1", "kms-1"]
    first.follow(page, 9, 10)
    first.ready("ready")
    assert (secrets / "seal.current").read_text() == "k3"


@pytest.mark.full
@pytest.mark.timeout(1_500)
def test_the_runbooks_do_what_they_say(first: Machine, second: Machine) -> None:
    installed = first.production()
    first.follow(RUNBOOKS / "promotion.md", 0, 1)
    first.send(LEAST)
    shadow = f"release shadow status {first.newest('ID')}"
    first.until(shadow, lambda told: told["shadows"][0]["scored"] >= LEAST)
    first.follow(RUNBOOKS / "promotion.md", 2, 3)
    first.send(LEAST)
    canary = f"release canary status {first.newest('ID')}"
    first.until(canary, lambda told: told["percent"] == 50)
    first.send(LEAST)
    first.until(canary, lambda told: told["state"] == "ready")
    first.until(shadow, lambda told: told["shadows"][0]["lag_seconds"] == 0)
    first.follow(RUNBOOKS / "promotion.md", 4, 5)
    promoted = first.production()
    assert (promoted["kind"], promoted["approver"]) == ("promote", "bob")

    first.names["POLICY"] = installed["policy"][:8]
    first.follow(RUNBOOKS / "rollback.md")
    assert first.production()["policy"] == installed["policy"]

    first.names["POLICY"] = promoted["policy"][:8]
    first.follow(RUNBOOKS / "rollback.md", 1)
    first.follow(RUNBOOKS / "emergency-demote.md", 0)
    assert first.production()["policy"] == installed["policy"]
    first.follow(RUNBOOKS / "emergency-demote.md", 4)
    first.follow(RUNBOOKS / "emergency-demote.md", 1, 3, 4)
    assert first.production()["model"] is None
    assert first.tiebreak("release status")["demotions"] == []
    for policy in (installed, promoted):  # what demotions took out, two persons put back
        first.names["POLICY"] = policy["policy"][:8]
        first.follow(RUNBOOKS / "rollback.md", 1)
    first.follow(RUNBOOKS / "emergency-demote.md", 2, 4)
    assert first.production()["policy"] == installed["policy"]

    first.follow(RUNBOOKS / "restore-on-a-new-machine.md", 0)
    backup = first.folder / "tiebreak.tar"
    assert backup.stat().st_mode & 0o077 == 0
    bundle = first.data_dir / "artifacts" / "bundles" / f"{installed['model']}.bundle"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    first.shell("tiebreak down")
    first.shell("tiebreak up --detach")
    first.ready("degraded")
    first.follow(RUNBOOKS / "bad-artifact.md", 0, 1)
    first.ready("ready")
    first.follow(RUNBOOKS / "bad-artifact.md", 2)

    shutil.copy(backup, second.folder)
    second.follow(RUNBOOKS / "restore-on-a-new-machine.md", 1)
    second.ready("ready")
    second.follow(RUNBOOKS / "restore-on-a-new-machine.md", 2)
    assert second.production()["policy"] == installed["policy"]
    again = subprocess.run(
        ["tiebreak", "restore", str(backup), "--json"],
        env=second.environment,
        capture_output=True,
        check=False,
    )
    assert orjson.loads(again.stdout)["error"]["code"] in ("folder_in_use", "already_running")
