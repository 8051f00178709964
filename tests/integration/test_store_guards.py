"""Append-only tables refuse change by role and by trigger; erasure is the one narrow way."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest
from tests.databases import DatabaseUrls

from tiebreak.store import partitions, roles
from tiebreak.store.migrations import guards
from tiebreak.store.tables import metadata

AS_OF = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
LANE = UUID(int=1)
SEAL = {"salt": b"salt", "lane": LANE, "seal_seq": 1, "seal_position": 0}
PRETEND = "SELECT set_config('tiebreak.erasing', pg_current_xact_id()::text, true)"
APPEND_ONLY = sorted(set(metadata.tables) - guards.MUTABLE)


def decision_id(as_of: datetime) -> UUID:
    milliseconds = int(as_of.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | 0x2 << 62 | 99)


async def insert(connection: asyncpg.Connection, table: str, **row: object) -> None:
    await connection.copy_records_to_table(table, records=[tuple(row.values())], columns=list(row))


async def fill(connection: asyncpg.Connection, ticket_id: str, decision: UUID) -> None:
    """One ticket with an outcome, a decision and a note."""
    key = {"workflow": "w", "ticket_id": ticket_id}
    await insert(
        connection,
        "ticket_keys",
        **key,
        revision=1,
        content_hash=b"h",
        as_of=AS_OF,
        origin="live",
    )
    await insert(
        connection,
        "tickets",
        **key,
        as_of=AS_OF,
        revision=1,
        received_at=AS_OF,
        origin="live",
        actor="a",
        content='{"remarks":"MARKER"}',
        context="{}",
        ticket_hash=1,
        **SEAL,
    )
    await insert(
        connection,
        "outcomes",
        **key,
        ordinal=1,
        kind="outcome",
        known_at=AS_OF,
        received_at=AS_OF,
        actor="a",
        content='{"name":"MARKER"}',
        content_hash=b"h",
        **SEAL,
    )
    await insert(
        connection,
        "ml_feedback",
        **key,
        ordinal=1,
        reviewer="r",
        band=1,
        given_at=AS_OF,
        received_at=AS_OF,
        note="MARKER",
        **SEAL,
    )
    await insert(connection, "decision_keys", **key, revision=1, ordinal=1, decision_id=decision)
    await insert(
        connection,
        "decisions",
        **key,
        as_of=AS_OF,
        decision_id=decision,
        revision=1,
        ordinal=1,
        decided_at=AS_OF,
        policy_hash="p",
        fingerprint="f",
        band=1,
        route="auto",
        route_reason="",
        is_tie=False,
        review_probability=0.0,
        rules_band=1,
        rules_points=0,
        fired='["MARKER"]',
        model_status="absent",
        errors="[]",
        **SEAL,
    )


async def erase(connection: asyncpg.Connection, ticket_id: str, ordinal: int = 1) -> int:
    async with connection.transaction():
        erased = await connection.fetchval("SELECT erase_ticket('w', $1)", ticket_id)
        await insert(
            connection,
            "erasures",
            workflow="w",
            ticket_id=ticket_id,
            ordinal=ordinal,
            erased_at=AS_OF,
            actor="a",
            reason="asked",
            places=b"",
            **SEAL,
        )
    return erased


@pytest.fixture
async def app(database_urls: DatabaseUrls):
    connection = await asyncpg.connect(database_urls.app)
    yield connection
    await connection.close()


@pytest.fixture
async def owner(database_urls: DatabaseUrls):
    connection = await asyncpg.connect(database_urls.owner)
    yield connection
    await connection.close()


async def markers(connection: asyncpg.Connection) -> int:
    """How many rows of the whole database hold the marker."""
    found = 0
    for table in metadata.tables:
        found += await connection.fetchval(
            f"SELECT count(*) FROM {table} t WHERE to_jsonb(t)::text LIKE '%MARKER%'"
        )
    return found


async def test_every_append_only_table_and_partition_has_its_triggers(owner) -> None:
    rows = await owner.fetch(
        """
        SELECT relname, coalesce(array_agg(tgname::text) FILTER (WHERE tgname IS NOT NULL), '{}')
        FROM pg_class LEFT JOIN pg_trigger ON tgrelid = pg_class.oid AND NOT tgisinternal
             AND tgenabled = 'O' AND tgfoid = 'refuse_change'::regproc
        WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
        GROUP BY relname
        """
    )
    unprotected = {
        name for name, triggers in rows if set(triggers) != {"refuse_change", "refuse_truncate"}
    }
    assert len(rows) > len(APPEND_ONLY) + 3 * 10
    assert unprotected == guards.MUTABLE | {"alembic_version"}


@pytest.mark.parametrize("table", APPEND_ONLY)
async def test_app_may_only_append(app, table: str) -> None:
    column = metadata.tables[table].columns.keys()[0]
    for statement in (
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
        f"TRUNCATE {table}",
        f"ALTER TABLE {table} ADD COLUMN more text",
        f"DROP TABLE {table}",
        f"ALTER TABLE {table} DISABLE TRIGGER ALL",
        f"CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION refuse_change()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute(statement)


async def test_app_cannot_touch_partitions_or_create_anything(app) -> None:
    for statement in (
        "INSERT INTO tickets_y2026 SELECT * FROM tickets",
        "SELECT * FROM decisions_y2026",
        "DELETE FROM decisions_y2026",
        "ALTER TABLE decisions DETACH PARTITION decisions_y2026",
        "CREATE TABLE mine (a int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
        "SET ROLE tiebreak_owner",
        "UPDATE alembic_version SET version_num = '9'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute(statement)


async def test_app_may_move_the_clock(app) -> None:
    await insert(app, "workflow_clocks", workflow="w", last_as_of=AS_OF, decided_through=AS_OF)
    await app.execute("SELECT * FROM workflow_clocks FOR UPDATE")
    await app.execute("UPDATE workflow_clocks SET history_generation = 2")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute("DELETE FROM workflow_clocks")


@pytest.mark.parametrize("table", sorted(metadata.tables))
async def test_readonly_may_only_read(database_urls: DatabaseUrls, table: str) -> None:
    connection = await asyncpg.connect(database_urls.readonly)
    try:
        await connection.fetch(f"SELECT * FROM {table}")
        column = metadata.tables[table].columns.keys()[0]
        for statement in (
            f"INSERT INTO {table} SELECT * FROM {table}",
            f"UPDATE {table} SET {column} = {column}",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        for call in ("erase_ticket('w', 't')", "ensure_partition('tickets', 2050)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"SELECT {call}")
    finally:
        await connection.close()


async def test_triggers_refuse_the_owner_too(owner) -> None:
    await fill(owner, "t", decision_id(AS_OF))
    for table in ("tickets", "tickets_y2026", "decisions", "outcomes", "ticket_keys"):
        for statement in (
            f"UPDATE {table} SET ticket_id = ticket_id",
            f"DELETE FROM {table}",
            f"TRUNCATE {table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await owner.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute("UPDATE tickets SET content = NULL, context = NULL, salt = NULL")


async def test_no_trick_lets_the_owner_change_content(owner) -> None:
    await fill(owner, "t", decision_id(AS_OF))
    for change in ("band = 0", "fired = '[]'", "fired = NULL, salt = NULL, band = 0"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
            await owner.execute(f"{PRETEND}; UPDATE decisions SET {change}")


async def test_erasure_removes_one_ticket_and_leaves_the_rest(app) -> None:
    await fill(app, "gone", decision_id(AS_OF))
    await fill(app, "stays", UUID(int=decision_id(AS_OF).int + 1))
    before = await app.fetchrow("SELECT * FROM decisions WHERE ticket_id = 'gone'")
    assert await markers(app) == 8
    assert await erase(app, "gone") == 4
    assert await markers(app) == 4
    after = await app.fetchrow("SELECT * FROM decisions WHERE ticket_id = 'gone'")
    assert dict(after) == {**dict(before), "fired": None, "salt": None}
    ticket = await app.fetchrow("SELECT * FROM tickets WHERE ticket_id = 'gone'")
    assert (ticket["content"], ticket["context"], ticket["salt"]) == (None, None, None)
    assert ticket["ticket_hash"] == 1
    assert await erase(app, "gone", ordinal=2) == 0


async def test_erasure_finds_a_decision_whose_id_does_not_tell_its_time(app) -> None:
    await fill(app, "t", UUID(int=5))
    assert await erase(app, "t") == 4
    assert await markers(app) == 0


async def test_erasure_without_a_tombstone_is_rolled_back(app) -> None:
    await fill(app, "t", decision_id(AS_OF))
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="without a row"):
        await app.execute("SELECT erase_ticket('w', 't')")
    assert await markers(app) == 4
    await erase(app, "t")
    await fill_again(app)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="without a row"):
        await app.execute("SELECT erase_ticket('w', 't')")


async def fill_again(connection: asyncpg.Connection) -> None:
    """A second outcome after the first erasure: the old tombstone does not cover it."""
    await insert(
        connection,
        "outcomes",
        workflow="w",
        ticket_id="t",
        ordinal=2,
        kind="outcome",
        known_at=AS_OF,
        received_at=AS_OF,
        actor="a",
        content="{}",
        content_hash=b"i",
        **SEAL,
    )


async def test_app_updates_nothing_even_while_erasing(app) -> None:
    await fill(app, "t", decision_id(AS_OF))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(
            f"{PRETEND}; UPDATE tickets SET content = NULL, context = NULL, salt = NULL"
        )


async def test_partitions_are_created_once_by_the_app(app, owner) -> None:
    created = await partitions.ensure(app, [2051, 2050])
    assert created == tuple(f"{t}_y{y}" for y in (2050, 2051) for t in partitions.PARTITIONED)
    assert await partitions.ensure(app, [2050, 2051]) == ()
    assert "tickets_y2051" in (await partitions.existing(app))["tickets"]
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute("TRUNCATE tickets_y2050")
    edges = (datetime(2050, 1, 1, tzinfo=UTC), datetime(2051, 12, 31, 23, 59, 59, 999999, UTC))
    for number, edge in enumerate(edges):
        await insert(
            app,
            "ml_shadow_scores",
            as_of=edge,
            workflow="w",
            ticket_id=str(number),
            revision=1,
            policy_hash="p",
            scored_at=edge,
            band=0,
            route="auto",
            rules_band=0,
            is_tie=False,
            seconds=0.0,
            fingerprint="f",
        )
    assert await owner.fetchval("SELECT count(*) FROM ml_shadow_scores_y2051") == 1


@pytest.mark.parametrize("call", ["'persons', 2030", "'tickets', 9999", "'; DROP TABLE x', 2030"])
async def test_partitions_of_other_things_are_refused(app, call: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await app.execute(f"SELECT ensure_partition({call})")


def test_partitions_are_created_ahead() -> None:
    assert list(partitions.years_ahead(datetime(2026, 12, 31, tzinfo=UTC))) == [2026, 2027, 2028]


async def test_the_app_role_is_checked(database_urls: DatabaseUrls, app) -> None:
    await roles.check_app(app)
    for url, reasons in ((database_urls.owner, 3), (database_urls.readonly, 1)):
        connection = await asyncpg.connect(url)
        with pytest.raises(roles.UnsafeRole) as caught:
            await roles.check_app(connection)
        await connection.close()
        assert len(caught.value.problems) == reasons
