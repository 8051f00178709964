"""A lane writes one seal a transaction, and never builds on a head that may not exist."""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from typing import Any

import asyncpg
import pytest
from tests.databases import DatabaseUrls, execute, fetch, run

from tiebreak.audit.journal import entry
from tiebreak.audit.lanes import Lane
from tiebreak.audit.seals import NO_HEAD, Seal, leaf
from tiebreak.core.steps import Steps
from tiebreak.settings import Keyring
from tiebreak.store.database import Database, DatabaseUnavailable
from tiebreak.store.meanwhile import Meanwhile
from tiebreak.store.tables import decision_keys, system_audit
from tiebreak.store.writes import FEW_ROWS, RecordsLost


async def seals_of(db: Database, lane: Lane) -> list[asyncpg.Record]:
    return await db.pool.fetch("SELECT * FROM audit_seals WHERE lane = $1 ORDER BY seq", lane.id)


async def test_each_unit_is_one_seal_over_all_it_added(db: Database, keyring: Keyring) -> None:
    lane = await Lane.open(db, "test", keyring)
    for size in (2, 1):
        async with lane.unit() as unit:
            for _ in range(size):
                unit.add(system_audit, [entry("ann", "a.done", "x", {"n": 1})])
    first, second = await seals_of(db, lane)
    assert (first["seq"], len(first["leaves"])) == (1, 64)
    assert (second["seq"], len(second["leaves"])) == (2, 32)
    previous = NO_HEAD
    for row in (first, second):
        seal = Seal(row["lane"], row["seq"], row["sealed_at"], row["leaves"], row["key_id"])
        assert row["head"] == seal.head(previous, keyring.seal_keys["k1"])
        previous = row["head"]
    for row in await db.pool.fetch("SELECT * FROM system_audit"):
        leaves = (first, second)[row["seal_seq"] - 1]["leaves"]
        position = row["seal_position"]
        expected = leaves[position * 32 : position * 32 + 32]
        assert leaf(system_audit, dict(row), row["salt"]) == expected
    writers = await db.pool.fetch("SELECT writer FROM audit_lanes WHERE lane = $1", lane.id)
    assert [row["writer"] for row in writers] == ["test"]


async def test_an_error_leaves_no_trace_and_the_chain_goes_on(
    db: Database, keyring: Keyring
) -> None:
    lane = await Lane.open(db, "test", keyring)
    before = lane.id

    async def fail() -> None:
        async with lane.unit() as unit:
            unit.add(system_audit, [entry("ann", "a.done", "x")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await db.pool.fetchval("SELECT count(*) FROM system_audit") == 0
    async with lane.unit() as unit:
        unit.add(system_audit, [entry("ann", "a.done", "x")])
    assert lane.id == before
    assert [row["seq"] for row in await seals_of(db, lane)] == [1]


async def test_a_unit_without_sealed_rows_writes_no_seal(db: Database, keyring: Keyring) -> None:
    lane = await Lane.open(db, "test", keyring)
    async with lane.unit() as unit:
        await unit.conn.fetchval("SELECT 1")
    assert await seals_of(db, lane) == []


async def test_units_of_one_lane_follow_each_other(db: Database, keyring: Keyring) -> None:
    lane = await Lane.open(db, "test", keyring)

    async def add() -> None:
        async with lane.unit() as unit:
            await asyncio.sleep(0)
            unit.add(system_audit, [entry("ann", "a.done", "x")])

    await asyncio.gather(*(add() for _ in range(8)))
    assert [row["seq"] for row in await seals_of(db, lane)] == list(range(1, 9))


async def test_a_lost_connection_before_the_commit_leaves_the_chain(
    db: Database, keyring: Keyring, database_urls: DatabaseUrls
) -> None:
    lane = await Lane.open(db, "test", keyring)
    before = lane.id

    async def lose_the_server() -> None:
        async with lane.unit() as unit:
            unit.add(system_audit, [entry("ann", "a.done", "y")])
            pid = await unit.conn.fetchval("SELECT pg_backend_pid()")
            admin = await asyncpg.connect(database_urls.admin)
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await admin.close()

    with pytest.raises(DatabaseUnavailable):
        await lose_the_server()
    async with lane.unit() as unit:
        unit.add(system_audit, [entry("ann", "a.done", "z")])
    assert lane.id == before
    assert [row["seq"] for row in await seals_of(db, lane)] == [1]


@pytest.mark.parametrize("way", ["unit", "append"])
async def test_a_doubtful_commit_starts_a_new_chain(
    db: Database, keyring: Keyring, database_urls: DatabaseUrls, way: str
) -> None:
    lane = await Lane.open(db, "test", keyring)

    async def add(action: str) -> None:
        rows = [entry("ann", action, "x")]
        if way == "append":
            assert await lane.append({system_audit: rows})
            return
        async with lane.unit() as unit:
            unit.add(system_audit, rows)

    await add("a.done")
    before = lane.id
    admin = await asyncpg.connect(database_urls.admin)
    await admin.execute(_DIE_AT_COMMIT)
    with pytest.raises(DatabaseUnavailable):
        await add("die")
    await admin.execute("DROP TRIGGER die ON system_audit; DROP FUNCTION die()")
    await admin.close()
    assert lane.id != before
    await add("a.done")
    assert [row["seq"] for row in await seals_of(db, lane)] == [1]


async def test_appending_what_stands_there_already_writes_nothing(
    db: Database, keyring: Keyring
) -> None:
    lane = await Lane.open(db, "test", keyring)
    before, row = lane.id, entry("ann", "a.done", "x")
    assert await lane.append({system_audit: [row]})
    assert not await lane.append({system_audit: [entry("ann", "a.done", "y"), row]})
    assert await lane.append({system_audit: [entry("ann", "a.done", "z")]})
    assert lane.id == before
    assert [seal["seq"] for seal in await seals_of(db, lane)] == [1, 2]
    assert await db.pool.fetchval("SELECT count(*) FROM system_audit") == 2


_DIE_AT_COMMIT = """
    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_terminate_backend(pg_backend_pid());
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER die AFTER INSERT ON system_audit DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.action = 'die') EXECUTE FUNCTION die();
"""


async def test_appending_is_whole_or_nothing_however_much_it_is(
    db: Database, keyring: Keyring
) -> None:
    lane = await Lane.open(db, "test", keyring)
    key = {
        "workflow": "w",
        "ticket_id": "t",
        "revision": 1,
        "ordinal": 1,
        "decision_id": uuid.uuid4(),
    }
    entries = [entry("ann", "a.done", "x") for _ in range(FEW_ROWS + 1)]
    assert not await lane.append({system_audit: entries, decision_keys: [key, key]})
    assert await db.pool.fetchval("SELECT count(*) FROM system_audit") == 0
    assert await lane.append({system_audit: entries, decision_keys: [key]})
    assert await db.pool.fetchval("SELECT count(*) FROM system_audit") == len(entries)


async def test_what_comes_after_a_seal_needs_it(db: Database, keyring: Keyring) -> None:
    first = await Lane.open(db, "test", keyring)
    second = await Lane.open(db, "test", keyring)
    after = (first.id, 1)
    entries = [entry("ann", "a.done", name) for name in "xy"]
    for rows in (entries[:1], entries):  # alone it comes as values, else as arrays
        with pytest.raises(RecordsLost):
            await second.append({system_audit: rows}, after=after)
    assert await db.pool.fetchval("SELECT count(*) FROM system_audit") == 0
    assert await db.pool.fetchval("SELECT count(*) FROM audit_seals") == 0
    assert await first.append({system_audit: [entry("ann", "a.done", "z")]})
    assert await second.append({system_audit: entries}, after=after)
    assert [row["seq"] for row in await seals_of(db, second)] == [1]


@pytest.mark.parametrize("is_lost", [False, True])
async def test_no_seal_follows_one_that_a_crash_took_back(
    db: Database, keyring: Keyring, database_urls: DatabaseUrls, *, is_lost: bool
) -> None:
    lane = await Lane.open(db, "test", keyring)

    async def add(name: str) -> tuple[uuid.UUID, int]:
        async with lane.unit(waits=False) as unit:
            unit.add(system_audit, [entry("ann", "a.done", name)])
        assert unit.seal is not None
        return unit.seal

    first = await add("w")
    lane.lasted(first)
    second = await add("x")
    lane.lasted(first)  # which says nothing of the second
    assert second == (first[0], 2)
    if is_lost:
        lose = "DELETE FROM audit_seals WHERE seq = 2"
        await execute(database_urls.admin, "SET session_replication_role = replica", lose)
    third, fourth = await add("y"), await add("z")
    assert third[1] == (1 if is_lost else 3)
    assert (third[0] == second[0]) == (not is_lost)
    assert fourth == (third[0], third[1] + 1)


SEEN = "SELECT FROM system_audit"


def comes(url: str, query: str, seconds: float = 5) -> bool:
    """Whether another connection sees such a row in time; the event loop stands still."""
    until = time.monotonic() + seconds
    while not run(fetch(url, query)):
        if time.monotonic() > until:
            return False
    return True


async def test_work_beside_begin_is_done_while_it_is_under_way(
    db: Database, keyring: Keyring, database_urls: DatabaseUrls
) -> None:
    lane = await Lane.open(db, "test", keyring)
    begin = "BEGIN; SELECT pg_sleep(1)"
    running = f"SELECT FROM pg_stat_activity WHERE query = '{begin}' AND state = 'active'"
    seen = list[bool]()
    work = Meanwhile.once(lambda: seen.append(comes(database_urls.admin, running)))
    async with lane.unit(begin=begin, meanwhile=work):
        assert seen == [True]


async def test_one_step_is_done_beside_the_flush_and_the_next_beside_commit(
    db: Database, keyring: Keyring, database_urls: DatabaseUrls
) -> None:
    lane = await Lane.open(db, "test", keyring)
    seen = list[bool]()

    def steps() -> Steps[None]:
        seen.append(comes(database_urls.admin, SEEN, 0.05))
        yield
        seen.append(comes(database_urls.admin, SEEN))
        yield
        seen.append(True)

    async with lane.unit() as unit:
        unit.note("ann", "a.done", "x")
        unit.meanwhile = work = Meanwhile(steps())
    assert seen == [False, True]
    work.result()
    assert seen == [False, True, True]


@pytest.mark.parametrize("at", ["begin", "flush"])
async def test_work_beside_what_fails_is_dropped(db: Database, keyring: Keyring, at: str) -> None:
    lane = await Lane.open(db, "test", keyring)
    before, leaks = lane.id, list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, told: leaks.append(told))
    key = {"workflow": "w", "ticket_id": "t", "revision": 1, "ordinal": 1}
    keys = [{**key, "decision_id": uuid.uuid4()}] * 2

    def steps() -> Steps[None]:
        yield
        raise ZeroDivisionError

    async def fail() -> None:
        begin = "BEGIN; SET LOCAL no_such_setting = 1" if at == "begin" else "BEGIN"
        work = Meanwhile(steps())
        async with lane.unit(begin=begin, meanwhile=work) as unit:
            unit.note("ann", "a.done", "x")
            unit.add(decision_keys, keys)
            unit.meanwhile = Meanwhile(steps())

    with pytest.raises(
        asyncpg.UndefinedObjectError if at == "begin" else asyncpg.UniqueViolationError
    ):
        await fail()
    async with lane.unit() as unit:
        unit.note("ann", "a.done", "y")
    gc.collect()
    await asyncio.sleep(0)
    assert leaks == []
    assert lane.id == before
    assert [row["seq"] for row in await seals_of(db, lane)] == [1]
    assert await db.pool.fetchval("SELECT string_agg(subject, '') FROM system_audit") == "y"


async def test_a_unit_cancelled_as_it_begins_leaves_no_transaction(
    db: Database, keyring: Keyring
) -> None:
    lane = await Lane.open(db, "test", keyring)
    leaks = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, told: leaks.append(told))

    def steps() -> Steps[None]:
        time.sleep(0.05)  # BEGIN is answered
        running.cancel()
        yield

    async def begin() -> None:
        async with lane.unit(meanwhile=Meanwhile(steps())):
            pytest.fail("it goes on")

    running = asyncio.create_task(begin())
    with pytest.raises(asyncio.CancelledError):
        await running
    async with lane.unit() as unit:
        unit.note("ann", "a.done", "x")
    gc.collect()
    assert leaks == []
    assert [row["seq"] for row in await seals_of(db, lane)] == [1]
