"""A crash of PostgreSQL between a ticket's admission and its decision: nothing is half there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from tests.databases import DatabaseUrls, servers_place
from tests.functional.serving import prepare
from tests.integration.test_decisions_service import submission

from tiebreak.audit import checkpoints
from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.decisions.batcher import Batch
from tiebreak.decisions.service import DecisionService
from tiebreak.decisions.serving import Active
from tiebreak.embedded.stack import Services, stack
from tiebreak.errors import Unavailable
from tiebreak.settings import Settings
from tiebreak.store.database import Database
from tiebreak.store.writes import RecordsLost

TRIES = 5  # somebody else's commit may have put an admission on the disk before the crash


@pytest.fixture
def services() -> Generator[Services]:
    """Servers of this test's own, which it may kill."""
    with tempfile.TemporaryDirectory(prefix="tiebreak-lost-", dir=servers_place()) as folder:
        Path(folder).chmod(0o755)
        with stack(Settings(data_dir=Path(folder))) as running:
            yield running


def test_a_ticket_that_a_crash_took_back_is_not_decided(services: Services) -> None:
    address = services.settings.database.url
    assert address is not None
    urls = DatabaseUrls("tiebreak", address.get_secret_value(), "", "", "")
    prepare(urls, services.keyring)
    asyncio.run(_story(services))


def test_no_crash_takes_back_what_a_checkpoint_names(services: Services) -> None:
    asyncio.run(_checkpoint(services))


async def _checkpoint(services: Services) -> None:
    db = await Database.of(services.settings)
    lane = await Lane.open(db, "tests", services.keyring)
    artifacts = ArtifactStore.of(services.settings)
    try:
        async with lane.unit(waits=False) as unit:
            unit.note("ann", "a.done", "x")
        written = await db.pool.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        await checkpoints.write(db, artifacts, services.keyring)
        flushed = "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn"
        assert await db.pool.fetchval(flushed, written)
    finally:
        await db.close()
    named = checkpoints.newest(artifacts, services.keyring)
    assert named is not None
    assert unit.seal is not None
    assert named[unit.seal[0]].seq == unit.seal[1]


async def _story(services: Services) -> None:
    service = await DecisionService.start(services.settings, services.keyring)
    serving = service._serving
    assert serving is not None
    admit, crashes = serving._admit, False

    async def admit_and_crash(active: Active, batch: Batch) -> object:
        admitted = await admit(active, batch)
        if crashes:
            await _crash(services, service)
        return admitted

    serving._admit = admit_and_crash  # type: ignore[method-assign]
    try:
        before = await service.decide("repairs", submission("before"), "ann")
        crashes, lane = True, serving._admission_lane.id
        count = "SELECT count(*) FROM {} WHERE ticket_id = $1"
        for number in range(TRIES):
            try:
                await service.decide("repairs", submission(f"t{number}"), "ann")
            except RecordsLost:
                break
            query = count.format("ticket_keys")
            assert await service.db.pool.fetchval(query, f"t{number}") == 1
        else:
            pytest.fail("each admission was on the disk before the crash")
        crashes = False
        for table in ("ticket_keys", "tickets", "decision_keys", "decisions"):
            query = count.format(table)
            assert await service.db.pool.fetchval(query, f"t{number}") == 0
        told = await service.decide("repairs", submission(f"t{number}"), "ann")
        assert told["revision"] == 1
        assert serving._admission_lane.id != lane
        assert await service.decide("repairs", submission("before"), "ann") == before
        report = await verify(service.db, ArtifactStore.of(services.settings), services.keyring)
        assert report.is_intact, report
    finally:
        await service.drain()


async def _crash(services: Services, service: DecisionService) -> None:
    """Kill what would write the log, and a connection: the server loses what it has in memory."""
    assert services.postgres is not None
    processes = psutil.Process(services.postgres.pid).children()
    titles = {process.pid: " ".join(process.cmdline()) for process in processes}
    for sign in ("walwriter", "tiebreak"):
        for pid in [pid for pid, title in titles.items() if sign in title]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    for _ in range(300):
        try:
            await service.db.check()
        except Unavailable:
            await asyncio.sleep(0.1)
        else:
            return
    pytest.fail("the server does not come back")
