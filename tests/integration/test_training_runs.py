"""Training runs: supervised to whatever end they come to, one at a time, each of them on record."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from tests.databases import DatabaseUrls, execute, fetch, run
from tests.keys import KEYRING

from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import verify
from tiebreak.core.model import MANIFEST
from tiebreak.errors import InvalidInput, TiebreakError
from tiebreak.ingest.importer import Files, import_history
from tiebreak.ingest.simulator import simulate
from tiebreak.settings import DatabaseSettings, Settings, TrainingSettings
from tiebreak.store.database import Database, DatabaseUnavailable
from tiebreak.store.erasure import erase
from tiebreak.training import kept_snapshots, process, records, runs, turns
from tiebreak.training.dataset import TICKET_ID
from tiebreak.training.ends import (
    RunAbandoned,
    RunCancelled,
    RunCrashed,
    RunOutOfMemory,
    RunTimedOut,
    RunUnfit,
    TurnLost,
)
from tiebreak.training.fit import Parameters
from tiebreak.training.requests import Request
from tiebreak.training.runs import Run, Trainer, UnknownRun
from tiebreak.training.turns import TrainingBusy
from tiebreak.workflows import versions
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
LOCATE, RULES = check_folder(ROOT / "workflows" / "locate").sound()
END = datetime(2026, 6, 1, tzinfo=UTC)
SECONDS = 60.0
QUICK = Parameters(valid_from=END, rounds=10, max_depth=3)
SLOW = replace(QUICK, rounds=20_000, patience_rounds=20_000, max_depth=8, learning_rate=0.0001)
REQUEST = Request(
    workflow=LOCATE.name,
    workflow_version=LOCATE.version,
    known_by=END,
    valid_from=None,
    family=None,
    parameters=QUICK,
    author="ann",
    reason="test",
)
LONG = replace(REQUEST, parameters=SLOW)


@pytest.fixture(scope="module")
def urls(module_database_urls: DatabaseUrls, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A database with `locate` and simulated history."""
    past = simulate(3, 1_500, END - timedelta(days=400), 400).known_by(END)
    tickets, events = past.write(tmp_path_factory.mktemp("history"))

    async def prepare() -> None:
        db = await Database.open(module_database_urls.app, pool_size=4)
        lane = await Lane.open(db, "tests", KEYRING)
        await versions.load(lane, LOCATE, RULES, author="ann", reason="first")
        await import_history(
            db, KEYRING, LOCATE, Files([tickets], [events]), actor="ann", progress=_quiet
        )
        await db.close()

    run(prepare())
    return module_database_urls


@pytest.fixture
def settings(urls: DatabaseUrls, tmp_path: Path) -> Settings:
    return settings_of(urls, tmp_path)


def settings_of(urls: DatabaseUrls, folder: Path, **limits: Any) -> Settings:
    return Settings(
        data_dir=folder,
        database=DatabaseSettings(url=urls.app, owner_url=urls.owner, readonly_url=urls.readonly),
        training=TrainingSettings(**limits),
    )


@pytest.fixture
async def trainer(urls: DatabaseUrls, settings: Settings) -> AsyncGenerator[Trainer]:
    db = await Database.open(urls.app, pool_size=6)
    yield Trainer(db, await Lane.open(db, "training", KEYRING), settings, KEYRING)
    left = [turn.run_id for turn in await _turns(db)]
    await db.close()
    assert left == []


def limited(trainer: Trainer, **limits: Any) -> Trainer:
    update = trainer.settings.training.model_copy(update=limits)
    return replace(trainer, settings=trainer.settings.model_copy(update={"training": update}))


def _quiet(_step: str, _share: float) -> None:
    return


async def _turns(db: Database) -> list[turns.Turn]:
    async with db.connection() as conn:
        return await turns.everyone(conn)


async def until(trainer: Trainer, holds: Callable[[turns.Turn], bool]) -> turns.Turn:
    """Wait until the one turn is as wanted."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = await _turns(trainer.db)
            if found and holds(found[0]):
                return found[0]
            await asyncio.sleep(0.05)


def fitting(turn: turns.Turn) -> bool:
    return turn.told.step == "fit"


def child() -> psutil.Process:
    """The process that trains for this one."""
    (found,) = children()
    return found


def children() -> list[psutil.Process]:
    mine = psutil.Process().children()
    return [each for each in mine if process.MODULE in " ".join(each.cmdline())]


async def ended(trainer: Trainer) -> dict[str, Any]:
    """The newest record."""
    return (await records.ended(trainer.db, LOCATE.name, limit=1))[0]


async def refused(trainer: Trainer, request: Request, kind: type[TiebreakError]) -> dict[str, Any]:
    """The record of a run that ends by this error; nothing is stored or named."""
    with pytest.raises(kind):
        await trainer.run(request, _quiet)
    return await nothing_came(trainer)


async def nothing_came(trainer: Trainer) -> dict[str, Any]:
    record = await ended(trainer)
    assert record["bundle_digest"] is None
    assert trainer.artifacts.list_bundles() == ()
    assert trainer.artifacts.read_alias(LOCATE.name, "risk_model_candidate") is None
    assert children() == []
    return record


async def test_a_run_leaves_a_signed_bundle_and_its_record(trainer: Trainer) -> None:
    seen: list[str] = []
    done = await trainer.run(REQUEST, lambda step, share: seen.append(step))
    record = await ended(trainer)
    assert trainer.artifacts.list_bundles() == (done.digest,)
    assert trainer.artifacts.read_alias(LOCATE.name, "risk_model_candidate") == done.digest
    assert record["run_id"] == str(done.run_id)
    assert (record["state"], record["bundle_digest"]) == ("bundled", done.digest)
    assert (record["author"], record["reason"], record["seed"]) == ("ann", "test", 0)
    assert record["data_hash"] == done.manifest["data_hash"]
    assert record["parameters"]["rounds"] == 10
    assert record["parameters"]["known_by"] == END.isoformat()
    assert record["parameters"]["valid_from"] == done.manifest["parameters"]["valid_from"]
    assert record["metrics"]["auc"] == done.manifest["metrics"]["auc"]
    assert record["versions"]["xgboost-cpu"]
    assert record["versions"]["fingerprint"] == done.manifest["fingerprint"]
    assert record["finished_at"] > record["started_at"] > END - timedelta(days=1)
    assert seen


@pytest.mark.full
async def test_the_same_data_seed_and_parameters_give_the_same_unsigned_bytes(
    trainer: Trainer,
) -> None:
    """And so the same digest; when, how long, by whom and why stand in the record alone."""
    first = await trainer.run(REQUEST, _quiet)
    again = await trainer.run(replace(REQUEST, author="bob", reason="once more"), _quiet)
    other = await trainer.run(replace(REQUEST, parameters=replace(QUICK, seed=1)), _quiet)
    assert first.digest == again.digest != other.digest
    manifest = orjson.dumps(first.manifest).decode()
    assert str(first.run_id) not in manifest
    assert "ann" not in manifest.split('"')
    assert [r["author"] for r in await records.ended(trainer.db, limit=2)] == ["ann", "bob"]


async def test_what_training_refuses_is_told_and_on_record(trainer: Trainer) -> None:
    early = replace(REQUEST, valid_from=END - timedelta(days=380))
    with pytest.raises(InvalidInput) as caught:
        await trainer.run(early, _quiet)
    assert caught.value.code == "too_little_data"
    assert "later valid_from" in caught.value.hint
    record = await nothing_came(trainer)
    assert (record["state"], record["metrics"]["error"]) == ("failed", "too_little_data")
    assert record["data_hash"]


async def test_a_run_that_ends_before_its_data_is_read_is_on_record(trainer: Trainer) -> None:
    record = await refused(trainer, replace(REQUEST, workflow_version="gone"), TiebreakError)
    assert (record["state"], record["data_hash"]) == ("failed", None)


async def test_a_cancelled_run_is_ended_at_once(trainer: Trainer) -> None:
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    turn = await until(trainer, fitting)
    pid = child().pid
    shown = await records.get(trainer.db, turn.run_id)
    assert (shown["state"], shown["step"]) == ("running", "fit")
    await trainer.cancel(turn.run_id, by="bob", reason="wrong data")
    await trainer.cancel(turn.run_id, by="eve", reason="too")  # the first who asked counts
    with pytest.raises(RunCancelled):
        await running
    assert not psutil.pid_exists(pid)
    record = await nothing_came(trainer)
    assert (record["state"], record["author"]) == ("cancelled", "ann")
    assert record["metrics"]["cancelled_by"] == "bob"
    assert record["metrics"]["cancel_reason"] == "wrong data"
    assert record["data_hash"]
    with pytest.raises(UnknownRun):
        await trainer.cancel(turn.run_id, by="bob", reason="again")


@pytest.mark.full
async def test_a_ticket_that_is_erased_while_a_run_trains_on_it_is_not_kept(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process has read it and stands still while it is erased; then it hands it over."""
    monkeypatch.setattr(runs, "BEAT_SECONDS", 0.02)  # so that no step passes unseen
    before = await trainer.run(REQUEST, _quiet)
    digest = before.manifest["data_hash"]
    ticket = kept_snapshots.load(trainer.artifacts, digest).frame[TICKET_ID][0]
    trainer.artifacts.delete_snapshot(digest)
    slow = replace(QUICK, rounds=400, patience_rounds=400, learning_rate=0.01)
    running = asyncio.create_task(trainer.run(replace(REQUEST, parameters=slow), _quiet))
    await until(trainer, lambda turn: turn.told.data is not None)
    training = child()
    training.suspend()
    async with trainer.lane.unit() as unit:
        assert await erase(unit, LOCATE.name, ticket, actor="ann", reason="asked for")
    training.resume()
    assert (await running).manifest["data_hash"] == digest  # it had read the ticket
    assert trainer.artifacts.list_snapshots() == ()
    after = await trainer.run(REQUEST, _quiet)
    assert trainer.artifacts.list_snapshots() == (after.manifest["data_hash"],)
    left = kept_snapshots.load(trainer.artifacts, after.manifest["data_hash"])
    assert ticket not in left.frame[TICKET_ID]


@pytest.mark.full
async def test_who_stops_waiting_ends_the_run(trainer: Trainer) -> None:
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    await until(trainer, fitting)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    record = await nothing_came(trainer)
    assert (record["state"], record["metrics"]["cancelled_by"]) == ("cancelled", "ann")


@pytest.mark.full
async def test_a_run_that_takes_too_long_is_ended(trainer: Trainer) -> None:
    record = await refused(limited(trainer, wall_seconds=6.0), LONG, RunTimedOut)
    assert record["state"] == "timed_out"
    took = record["finished_at"] - record["started_at"]
    assert took < timedelta(seconds=12)


@pytest.mark.full
async def test_a_run_that_hangs_is_ended(trainer: Trainer) -> None:
    running = asyncio.create_task(limited(trainer, wall_seconds=8.0).run(LONG, _quiet))
    await until(trainer, lambda turn: turn.state == "running" and bool(children()))
    child().send_signal(signal.SIGSTOP)
    with pytest.raises(RunTimedOut):
        await running
    assert (await nothing_came(trainer))["state"] == "timed_out"


@pytest.mark.full
async def test_a_run_that_takes_too_much_processor_time_is_ended(trainer: Trainer) -> None:
    record = await refused(limited(trainer, cpu_seconds=3), LONG, RunTimedOut)
    assert record["state"] == "timed_out"


@pytest.mark.parametrize("mebibytes", [30, 80, 140, 160])
async def test_a_run_that_takes_too_much_memory_is_ended(trainer: Trainer, mebibytes: int) -> None:
    record = await refused(limited(trainer, memory_bytes=mebibytes << 20), REQUEST, RunOutOfMemory)
    assert record["state"] == "out_of_memory"


async def test_a_process_that_is_killed_is_on_record(trainer: Trainer) -> None:
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    await until(trainer, fitting)
    child().send_signal(signal.SIGKILL)
    with pytest.raises(RunCrashed):
        await running
    record = await nothing_came(trainer)
    assert record["state"] == "crashed"
    assert "SIGKILL" in record["metrics"]["message"]


@pytest.mark.full
async def test_one_run_of_a_workflow_at_a_time_on_all_hosts(
    trainer: Trainer, urls: DatabaseUrls
) -> None:
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    turn = await until(trainer, fitting)
    other_db = await Database.open(urls.app, pool_size=2)
    other = replace(trainer, db=other_db, lane=await Lane.open(other_db, "other", KEYRING))
    for attempt in (other.run(REQUEST, _quiet), other.queue(REQUEST)):
        with pytest.raises(TrainingBusy) as caught:
            await attempt
        assert caught.value.fields["run_id"] == str(turn.run_id)
    await other.settle(LOCATE.name)  # it runs, so there is nothing to settle
    assert not running.done()
    await other.cancel(turn.run_id, by="bob", reason="test")
    with pytest.raises(RunCancelled):
        await running
    assert (await other.run(REQUEST, _quiet)).digest
    await other_db.close()


@pytest.mark.full
async def test_two_started_at_once_make_one_run(trainer: Trainer) -> None:
    before = len(await records.ended(trainer.db, limit=1000))
    done = await asyncio.gather(
        *(trainer.run(REQUEST, _quiet) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in done) == ["Run", "TrainingBusy", "TrainingBusy"]
    assert len(await records.ended(trainer.db, limit=1000)) == before + 1


@pytest.mark.full
async def test_a_run_that_lost_its_turn_keeps_nothing(trainer: Trainer, urls: DatabaseUrls) -> None:
    """As when its host was cut off and others took it for dead."""
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    turn = await until(trainer, fitting)
    await execute(
        urls.admin, f"UPDATE training_turns SET run_id = '{uuid.uuid4()}', state = 'running'"
    )
    with pytest.raises(TurnLost):
        await running
    with pytest.raises(UnknownRun):
        await records.get(trainer.db, turn.run_id)
    await trainer.settle(LOCATE.name)
    assert (await nothing_came(trainer))["state"] == "abandoned"


@pytest.mark.full
async def test_what_is_handed_over_must_be_what_was_asked_for(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = process.trained

    async def other(*arguments: Any) -> process.Trained:
        trained = await sound(*arguments)
        return replace(trained, manifest=trained.manifest | {"seed": 5})

    monkeypatch.setattr(process, "trained", other)
    record = await refused(trainer, REQUEST, RunUnfit)
    assert record["state"] == "crashed"
    assert record["metrics"]["fields"]["fields"] == ["seed"]


async def test_the_process_is_given_no_more_than_it_needs(
    trainer: Trainer, urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIEBREAK_KEYS__SEAL", "not for it")
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    turn = await until(trainer, lambda turn: bool(children()))
    found = child()
    given = " ".join([*found.cmdline(), *found.environ().values(), *found.environ()])
    assert not {"TIEBREAK_KEYS__SEAL", "DATABASE_URL", "PASSWORD"} & set(found.environ())
    assert "password" not in given
    assert found.environ().keys() <= {
        *("PATH", "LC_ALL", "POLARS_MAX_THREADS", "NUMBA_CACHE_DIR"),
        *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    }
    assert os.getpgid(found.pid) == found.pid != os.getpgid(0)
    await trainer.cancel(turn.run_id, by="bob", reason="test")
    with pytest.raises(RunCancelled):
        await running


async def test_the_process_reads_by_a_role_that_only_reads(
    trainer: Trainer, urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = orjson.loads(process.job(REQUEST, LOCATE, trainer.settings, KEYRING.entity_key))
    secrets = [*KEYRING.seal_keys.values(), *KEYRING.bundle_keys.values(), KEYRING.sampling_key]
    assert not any(key.hex() in orjson.dumps(job).decode() for key in secrets)
    db = await Database.open(job["database_url"])
    async with db.connection() as conn:
        assert await conn.fetchval("SELECT current_user") == "tiebreak_readonly"
        assert await conn.fetchval("SHOW default_transaction_read_only") == "on"
    await db.close()


async def test_a_queued_run_is_run_once(trainer: Trainer) -> None:
    turn = await trainer.queue(REQUEST)
    assert (await records.get(trainer.db, turn.run_id))["state"] == "queued"
    with pytest.raises(TrainingBusy):
        await trainer.run(REQUEST, _quiet)
    done = await asyncio.gather(*(trainer.run_queued(turn.run_id) for _ in range(2)))
    assert [type(each) for each in done if each is not None] == [Run]
    assert await trainer.run_queued(turn.run_id) is None
    assert (await records.get(trainer.db, turn.run_id))["state"] == "bundled"


async def test_a_queued_run_that_is_cancelled_never_runs(trainer: Trainer) -> None:
    turn = await trainer.queue(REQUEST)
    await trainer.cancel(turn.run_id, by="bob", reason="no need")
    assert await trainer.run_queued(turn.run_id) is None
    record = await nothing_came(trainer)
    assert (record["state"], record["metrics"]["cancelled_by"]) == ("cancelled", "bob")


@pytest.mark.full
async def test_a_run_whose_supervisor_is_gone_is_found(trainer: Trainer) -> None:
    async with turns.held(trainer.db, LOCATE.name) as conn:
        assert conn is not None
        turn = await turns.ask(conn, REQUEST, "running")
    done = await trainer.run(REQUEST, _quiet)  # the next one finds it
    record = await records.get(trainer.db, turn.run_id)
    assert (record["state"], record["metrics"]["error"]) == ("abandoned", RunAbandoned.code)
    assert (await ended(trainer))["run_id"] == str(done.run_id)


@pytest.mark.full
async def test_a_database_that_goes_away_ends_the_run(trainer: Trainer, urls: DatabaseUrls) -> None:
    running = asyncio.create_task(trainer.run(LONG, _quiet))
    await until(trainer, fitting)
    await fetch(
        urls.admin,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND usename = 'tiebreak_app'",
    )
    with pytest.raises(DatabaseUnavailable):
        await running
    assert (await nothing_came(trainer))["state"] in {"crashed", "failed"}


@pytest.mark.full
async def test_all_runs_are_sealed_and_journaled(trainer: Trainer) -> None:
    done = await trainer.run(REQUEST, _quiet)
    report = await verify(trainer.db, trainer.artifacts, KEYRING)
    assert report.is_intact, report.findings
    journal = await fetch(
        trainer.settings.database.owner_url.get_secret_value(),  # type: ignore[union-attr]
        "SELECT actor, subject, detail FROM system_audit WHERE action = 'training.finished' "
        "ORDER BY at DESC LIMIT 1",
    )
    assert journal[0]["subject"] == f"locate/{done.run_id}"
    assert orjson.loads(journal[0]["detail"])["bundle_digest"] == done.digest
    assert MANIFEST  # the manifest is the bundle's own
