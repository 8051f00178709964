"""A database superuser without the seal key, for whom no trigger fires: every attack is named."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from tests import releases
from tests.databases import DatabaseUrls, run
from tests.keys import KEYRING
from tests.store_samples import NAME, WORKFLOW, admit, decide, record, ticket, told

from tiebreak.access.keys import create_key, revoke_key
from tiebreak.access.persons import ensure_person
from tiebreak.access.roles import Role
from tiebreak.audit import checkpoints
from tiebreak.audit.lanes import Lane
from tiebreak.audit.records import SEALED
from tiebreak.audit.seals import LEAF_BYTES, NO_HEAD, SEAL_COLUMNS, Seal, leaf
from tiebreak.audit.verify import Report, verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.registry import records
from tiebreak.release.approvals import approve
from tiebreak.release.demotion import Target, countersign, demote
from tiebreak.release.promotion import rollback
from tiebreak.release.releases import Office, withdraw
from tiebreak.release.states import Kind, Stage
from tiebreak.settings import Keyring
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.erasure import erase
from tiebreak.workflows import versions

pytestmark = pytest.mark.full

YEARS = (2024, 2025)
_CHECKS = """
    SELECT conrelid::regclass::text AS of, conname AS name FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'public'::regnamespace AND conislocal
      AND conparentid = 0
"""
ATTACKERS_KEY = b"a key of the attacker's own choosing"
PLACE = "lane, seal_seq, seal_position"


async def build(urls: DatabaseUrls, keyring: Keyring) -> None:
    """Every sealed table with records in two lanes and of two years, by those who write them."""
    db = await Database.open(urls.app, pool_size=2)
    lanes = {year: await Lane.open(db, f"writer of {year}", keyring) for year in YEARS}
    for year, lane in lanes.items():
        await write_tickets(lane, keyring, year)
    for year, lane in lanes.items():
        await write_the_rest(lane, db, keyring, year)
    await db.close()
    admin = await asyncpg.connect(urls.admin)
    for row in await admin.fetch(_CHECKS):  # a superuser is stopped by none of them
        await admin.execute(f"ALTER TABLE {row['of']} DROP CONSTRAINT {row['name']}")
    await admin.execute("CREATE SCHEMA saved")
    for table in tables.metadata.sorted_tables:
        await admin.execute(f"CREATE TABLE saved.{table.name} AS TABLE {table.name}")
    await admin.close()


async def write_tickets(lane: Lane, keyring: Keyring, year: int) -> None:
    async with lane.unit() as unit:
        await ensure_person(unit, f"person-{year}", actor="tests")
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    tickets = [ticket(name, digger="d", depth=1) for name in names(year)]
    batch = await admit(lane, keyring, *tickets, as_of=datetime(year, 5, 1, tzinfo=UTC))
    await decide(lane, *batch.tickets)


async def write_the_rest(lane: Lane, db: Database, keyring: Keyring, year: int) -> None:
    for audit_share in (0.1, 0.2):
        knobs = Knobs(audit_share=audit_share + year / 1e5)
        version = WORKFLOW.model_copy(update={"knobs": knobs})
        await versions.load(lane, version, RuleSet(rules=()), author="ann", reason="tests")
        parts = PolicyParts(NAME, version.version, RuleSet(rules=()).version, None)
        await releases.put(db, lane, keyring, parts)
    await release(releases.office_of(db, lane, keyring), year)
    await record(lane, keyring, *(told(n, damage=True) for n in names(year)[:4]))
    now = datetime.now(UTC)
    async with lane.unit() as unit:
        unit.add(tables.ml_feedback, [feedback(name, now) for name in names(year)[:4]])
        unit.add(tables.ml_training_runs, [training_run(now) for _ in range(2)])
    for name in names(year)[4:]:
        async with lane.unit() as unit:
            await erase(unit, NAME, name, actor="dpo", reason="asked")
    for _ in range(2):
        token = await create_key(
            lane, person="ann", roles=frozenset({Role.ADMIN}), actor="tests", expires_at=None
        )
    await revoke_key(lane, db, token.key_id, actor="tests", reason="lost")


async def release(office: Office, year: int) -> None:
    """A canary that is withdrawn, a demotion with its second signature, and rollbacks."""
    version = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.3 + year / 1e5)})
    await versions.load(office.lane, version, RuleSet(), author="ann", reason="tests")
    parts = PolicyParts(NAME, version.version, RuleSet().version)
    candidate = await releases.proposed(office, parts)
    await releases.tell(office, candidate, Kind.SHADOW_STARTED)
    await releases.gated(office, candidate, Stage.CANARY)
    await approve(office, candidate.release_id, Stage.CANARY, approver="bob", note="go on")
    await releases.share(office, candidate, 5, Kind.CANARY_STARTED)
    await withdraw(office, candidate.release_id, actor="ann", reason="tests")
    now = (await records.current(office.db, office.keyring))[NAME]
    assert isinstance(now, records.ReleaseRecord)
    back = await demote(office, NAME, Target.PREVIOUS, seq=now.seq, author="ann", reason="tests")
    await countersign(office, NAME, back.seq, signer="bob", note="right")
    for seq, policy in ((back.seq, now), (back.seq + 1, back)):
        two = {"author": "ann", "approver": "bob", "reason": "tests"}
        await rollback(office, NAME, policy.policy_hash, seq=seq, **two)


def names(year: int) -> list[str]:
    return [f"{year}.{i}" for i in range(6)]


def feedback(ticket_id: str, at: datetime) -> dict[str, Any]:
    return {
        "workflow": NAME,
        "ticket_id": ticket_id,
        "ordinal": 1,
        "reviewer": "bob",
        "band": 2,
        "given_at": at,
        "received_at": at,
        "note": "seen",
    }


def training_run(at: datetime) -> dict[str, Any]:
    texts = ("workflow_version", "bundle_digest", "data_hash", "parameters", "metrics", "versions")
    return {
        "run_id": uuid.uuid4(),
        "workflow": NAME,
        **dict.fromkeys(texts, "{}"),
        "seed": 1,
        "started_at": at,
        "finished_at": at,
        "author": "ann",
        "reason": "tests",
        "result": "bundled",
    }


@pytest.fixture(scope="module")
def scene(module_database_urls: DatabaseUrls) -> DatabaseUrls:
    run(build(module_database_urls, KEYRING))
    return module_database_urls


class Attacker:
    """The superuser's connection, and what verification says of the deed."""

    def __init__(
        self, connection: asyncpg.Connection, db: Database, artifacts: ArtifactStore
    ) -> None:
        self.connection = connection
        self.db = db
        self._artifacts = artifacts
        self.execute, self.fetch = connection.execute, connection.fetch
        self.fetchrow, self.fetchval = connection.fetchrow, connection.fetchval

    async def verify(self) -> Report:
        return await verify(self.db, self._artifacts, KEYRING)

    async def checkpoint(self) -> None:
        await checkpoints.write(self.db, self._artifacts, KEYRING)

    async def restore(self, *of: Table) -> None:
        """Bring back what stood there when the attacks began."""
        for table in of or tables.metadata.sorted_tables:
            await self.execute(f"DELETE FROM {table.name}")
            await self.execute(f"INSERT INTO {table.name} TABLE saved.{table.name}")

    async def rows(self, table: Table, count: int = 2) -> list[asyncpg.Record]:
        """Records with their content, the first of one lane."""
        found = await self.fetch(
            f"SELECT * FROM {table.name} WHERE salt IS NOT NULL ORDER BY {PLACE} LIMIT {count}"
        )
        assert len(found) == count
        return found

    async def move(self, table: Table, row: asyncpg.Record, to: Sequence[Any]) -> None:
        """Let a record claim another place."""
        await self.execute(
            f"UPDATE {table.name} SET lane = $1, seal_seq = $2, seal_position = $3 WHERE salt = $4",
            *to,
            row["salt"],
        )

    async def copy(self, table: Table, row: asyncpg.Record, **more: object) -> None:
        """Insert a record again with other values."""
        values = {**dict(row), **more}
        names = list(values)
        await self.execute(
            f"INSERT INTO {table.name} ({', '.join(names)}) "
            f"VALUES ({', '.join(f'${i + 1}' for i in range(len(names)))})",
            *values.values(),
        )


@pytest.fixture
async def attacker(scene: DatabaseUrls, tmp_path: Path) -> AsyncGenerator[Attacker]:
    connection = await asyncpg.connect(scene.admin)
    await connection.execute("SET session_replication_role = replica")
    db = await Database.open(scene.app, pool_size=2)
    found = Attacker(connection, db, ArtifactStore(Folder(tmp_path)))
    yield found
    await found.restore()
    await db.close()
    await connection.close()


def place_of(row: asyncpg.Record) -> tuple[str, int, int]:
    return str(row["lane"]), row["seal_seq"], row["seal_position"]


def named(report: Report, cause: str) -> set[tuple[Any, ...]]:
    """Table and place of every finding of this cause."""
    return {(f.table, f.lane, f.seq, f.position) for f in report.findings if f.cause == cause}


def causes(report: Report) -> set[str]:
    return {finding.cause for finding in report.findings}


def key_of(table: Table, row: asyncpg.Record) -> dict[str, str]:
    return {column.name: str(row[column.name]) for column in table.primary_key.columns}


def other(column: Column[Any]) -> str:
    """SQL for another value than the column has."""
    name = column.name
    match column.type:
        case Text():
            return f"coalesce({name}, '') || ' '"
        case Integer() | BigInteger() | SmallInteger():
            return f"coalesce({name}, 0) + 10000"
        case Double():
            return f"coalesce({name}, 0) + 1e-15"
        case Boolean():
            return f"NOT {name}"
        case LargeBinary():
            return f"coalesce({name}, '') || '\\x00'"
        case DateTime():
            return f"coalesce({name}, 'epoch') + interval '1 microsecond'"
        case Uuid():
            return "gen_random_uuid()"
        case ARRAY():
            return f"{name} || {name}"
    raise AssertionError(column)


async def test_nobody_has_attacked_yet(attacker: Attacker) -> None:
    assert (await attacker.verify()).is_intact
    for table in SEALED:
        lanes = await attacker.fetchval(f"SELECT count(DISTINCT lane) FROM {table.name}")
        assert lanes == 2, table.name


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_an_edit_of_any_column_is_named(attacker: Attacker, table: Table) -> None:
    (row,) = await attacker.rows(table, 1)
    for column in table.columns:
        if column.name in SEAL_COLUMNS and column.name != "salt":
            continue
        await attacker.execute(
            f"UPDATE {table.name} SET {column.name} = {other(column)} WHERE salt = $1",
            row["salt"],
        )
        report = await attacker.verify()
        assert named(report, "record_altered") == {(table.name, *place_of(row))}, column.name
        finding = next(f for f in report.findings if f.cause == "record_altered")
        assert finding.key is not None
        if not column.primary_key:
            assert finding.key == key_of(table, row)
        await attacker.restore(table)


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_a_value_taken_away_or_given_is_named(attacker: Attacker, table: Table) -> None:
    (row,) = await attacker.rows(table, 1)
    for column in (c for c in table.columns if c.nullable and row[c.name] is not None):
        await attacker.execute(
            f"UPDATE {table.name} SET {column.name} = NULL WHERE salt = $1", row["salt"]
        )
        report = await attacker.verify()
        cause = "erased_without_tombstone" if column.name == "salt" else "record_altered"
        assert (table.name, *place_of(row)) in named(report, cause), column.name
        await attacker.restore(table)


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_a_deleted_record_is_named(attacker: Attacker, table: Table) -> None:
    (row,) = await attacker.rows(table, 1)
    await attacker.execute(f"DELETE FROM {table.name} WHERE salt = $1", row["salt"])
    assert (None, *place_of(row)) in named(await attacker.verify(), "record_missing")


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_an_emptied_table_is_named(attacker: Attacker, table: Table) -> None:
    rows = await attacker.fetch(f"SELECT * FROM {table.name}")
    await attacker.execute(f"TRUNCATE {table.name} CASCADE")
    missing = named(await attacker.verify(), "record_missing")
    assert {(None, *place_of(row)) for row in rows} <= missing
    await attacker.restore()


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_an_inserted_record_is_named(attacker: Attacker, table: Table) -> None:
    """At a place behind the seal, in a lane of its own, and at a place that is taken."""
    (row,) = await attacker.rows(table, 1)
    fresh = {c.name: altered(row[c.name]) for c in [*table.primary_key.columns][-1:]}
    places = (
        {"seal_position": 10_000},
        {"seal_seq": 10_000},
        {"lane": uuid.uuid4()},
        {
            "salt": b"another salt",
        },
    )
    for place in places:
        await attacker.copy(table, row, **fresh, **place)
        inserted = {**dict(row), **fresh, **place}
        report = await attacker.verify()
        if "salt" in place:  # two records claim one leaf: either may come first
            assert {(table.name, *place_of(row))} == named(report, "record_unsealed")
        else:
            found = (table.name, str(inserted["lane"]), inserted["seal_seq"])
            assert (*found, inserted["seal_position"]) in named(report, "record_unsealed")
        await attacker.restore(table)


def altered(value: Any) -> Any:
    match value:
        case uuid.UUID():
            return uuid.uuid4()
        case int():
            return value + 10_000
        case str():
            return value + " more"
    raise AssertionError(value)


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_reordered_records_are_named(attacker: Attacker, table: Table) -> None:
    first, second = await attacker.rows(table)
    to = [(row["lane"], row["seal_seq"], row["seal_position"]) for row in (second, first)]
    for row, place in zip((first, second), to, strict=True):
        await attacker.move(table, row, place)
    assert named(await attacker.verify(), "record_altered") == {
        (table.name, *place_of(row)) for row in (first, second)
    }


@pytest.mark.parametrize("table", SEALED, ids=str)
async def test_a_tail_cut_consistently_is_named_by_the_checkpoint(
    attacker: Attacker, table: Table
) -> None:
    """Seals and all that stands under them go together; without a checkpoint nothing is missed."""
    row = await attacker.fetchrow(
        f"SELECT * FROM {table.name} ORDER BY lane, seal_seq DESC, seal_position LIMIT 1"
    )
    assert row is not None
    await attacker.checkpoint()
    await cut(attacker, row["lane"], row["seal_seq"])
    report = await attacker.verify()
    assert named(report, "lane_truncated") == {(None, str(row["lane"]), row["seal_seq"], None)}
    assert not named(report, "record_missing")


async def cut(attacker: Attacker, lane: uuid.UUID, seq: int) -> None:
    for table in SEALED:
        await attacker.execute(
            f"DELETE FROM {table.name} WHERE lane = $1 AND seal_seq >= $2", lane, seq
        )
    await attacker.execute("DELETE FROM audit_seals WHERE lane = $1 AND seq >= $2", lane, seq)


@pytest.mark.parametrize("table", SEALED, ids=str)
@pytest.mark.parametrize("key_id", ["k1", "k2"])
async def test_a_record_sealed_anew_with_another_key_is_named(
    attacker: Attacker, table: Table, key_id: str
) -> None:
    """The attacker does all that Tiebreak does, to the end of the lane, but has not the key."""
    (row,) = await attacker.rows(table, 1)
    column = next(c for c in table.columns if isinstance(c.type, Text) and not c.primary_key)
    await attacker.execute(
        f"UPDATE {table.name} SET {column.name} = {other(column)} WHERE salt = $1", row["salt"]
    )
    forged = await attacker.fetchrow(f"SELECT * FROM {table.name} WHERE salt = $1", row["salt"])
    assert forged is not None
    lane, seq, position = row["lane"], row["seal_seq"], row["seal_position"]
    await seal_anew(attacker, lane, seq, position, leaf(table, dict(forged), row["salt"]), key_id)
    report = await attacker.verify()
    cause = "seal_altered" if key_id == "k1" else "seal_key_unknown"
    assert (None, str(lane), seq, None) in named(report, cause)
    assert not named(report, "record_altered")


async def seal_anew(
    attacker: Attacker, lane: uuid.UUID, seq: int, position: int, new: bytes, key_id: str
) -> None:
    rows = await attacker.fetch("SELECT * FROM audit_seals WHERE lane = $1 ORDER BY seq", lane)
    head = NO_HEAD
    for row in rows:
        seal = Seal(lane, row["seq"], row["sealed_at"], row["leaves"], row["key_id"])
        if seal.seq < seq:
            head = row["head"]
            continue
        if seal.seq == seq:
            start = position * LEAF_BYTES
            leaves = seal.leaves[:start] + new + seal.leaves[start + LEAF_BYTES :]
            seal = replace(seal, leaves=leaves)
        seal = replace(seal, key_id=key_id)
        head = seal.head(head, ATTACKERS_KEY)
        await attacker.execute(
            "UPDATE audit_seals SET leaves = $3, head = $4, key_id = $5 "
            "WHERE lane = $1 AND seq = $2",
            *(lane, seal.seq, seal.leaves, head, key_id),
        )


@pytest.mark.parametrize("columns", ["leaves", "head", "leaves, head", "sealed_at"])
async def test_seals_swapped_between_lanes_are_named(attacker: Attacker, columns: str) -> None:
    one, two = await attacker.fetch("SELECT lane FROM audit_lanes ORDER BY lane")
    names = columns.split(", ")
    await attacker.execute(
        f"UPDATE audit_seals s SET ({columns}) = ROW({', '.join(f'o.{n}' for n in names)}) "
        "FROM audit_seals o WHERE s.seq = 3 AND o.seq = 3 AND s.lane <> o.lane"
    )
    altered = named(await attacker.verify(), "seal_altered")
    for lane in (one["lane"], two["lane"]):
        assert {(None, str(lane), 3, None), (None, str(lane), 4, None)} & altered


async def test_lanes_that_exchange_their_names_are_named(attacker: Attacker) -> None:
    """All seals and all records of two lanes change sides."""
    one, two = [r["lane"] for r in await attacker.fetch("SELECT lane FROM audit_lanes")]
    swapped = f"CASE lane WHEN '{one}' THEN '{two}'::uuid ELSE '{one}'::uuid END"
    for table in ("audit_lanes", "audit_seals"):
        await attacker.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
        await attacker.execute(f"UPDATE {table} SET lane = {swapped}")
    await attacker.execute("ALTER TABLE audit_lanes ADD PRIMARY KEY (lane)")
    await attacker.execute("ALTER TABLE audit_seals ADD PRIMARY KEY (lane, seq)")
    for table in SEALED:
        await attacker.execute(f"UPDATE {table.name} SET lane = {swapped}")
    altered = named(await attacker.verify(), "seal_altered")
    assert {(None, str(lane), 1, None) for lane in (one, two)} <= altered


async def test_reordered_seals_are_named(attacker: Attacker) -> None:
    lane = await attacker.fetchval("SELECT min(lane::text)::uuid FROM audit_lanes")
    for table, column in [("audit_seals", "seq"), *((t.name, "seal_seq") for t in SEALED)]:
        await attacker.execute(
            f"UPDATE {table} SET {column} = -5 + {column} WHERE lane = $1 AND {column} IN (2, 3)",
            lane,
        )
        await attacker.execute(
            f"UPDATE {table} SET {column} = -{column} WHERE lane = $1 AND {column} < 0", lane
        )
    report = await attacker.verify()
    assert (None, str(lane), 2, None) in named(report, "seal_altered")


@pytest.mark.parametrize("table", ["tickets", "decisions"])
async def test_rows_that_change_partitions_are_named(attacker: Attacker, table: str) -> None:
    rows = await attacker.fetch(f"SELECT * FROM {table} WHERE salt IS NOT NULL")
    one, two = YEARS
    for year in YEARS:
        shift = f"{one + two - 2 * year} * interval '1 year'"
        await attacker.execute(
            f"CREATE TEMP TABLE moved_{year} AS SELECT * FROM {table}_y{year};"
            f"UPDATE moved_{year} SET as_of = as_of + {shift}"
        )
    await attacker.execute(f"DELETE FROM {table}")
    for year in YEARS:
        await attacker.execute(f"INSERT INTO {table} TABLE moved_{year}")
    assert named(await attacker.verify(), "record_altered") >= {
        (table, *place_of(row)) for row in rows
    }


@pytest.mark.parametrize("table", ["tickets", "decisions"])
async def test_a_detached_partition_is_named(attacker: Attacker, table: str) -> None:
    year = YEARS[0]
    rows = await attacker.fetch(f"SELECT * FROM {table}_y{year}")
    await attacker.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_y{year}")
    try:
        missing = named(await attacker.verify(), "record_missing")
    finally:
        await attacker.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {table}_y{year} "
            f"FOR VALUES FROM ('{year}-01-01 00:00+00') TO ('{year + 1}-01-01 00:00+00')"
        )
    assert {(None, *place_of(row)) for row in rows} <= missing


@pytest.mark.parametrize(
    ("table", "names_too", "cause"),
    [
        ("tickets", False, "partition_altered"),
        ("decisions", False, "partition_altered"),
        ("ml_shadow_scores", False, "partition_altered"),
        ("tickets", True, "record_misplaced"),
        ("decisions", True, "record_misplaced"),
    ],
)
async def test_partitions_that_exchange_their_years_are_named(
    attacker: Attacker, table: str, names_too: bool, cause: str
) -> None:
    """In the catalogue alone: every row is there, and who asks by time misses it."""
    await exchange_years(attacker, table, names_too)
    try:
        report = await attacker.verify()
    finally:
        await exchange_years(attacker, table, names_too)
    found = {(f.table, f.key["partition"]) for f in report.findings if f.cause == cause and f.key}
    assert found == {(table, f"{table}_y{year}") for year in YEARS}


async def exchange_years(attacker: Attacker, table: str, names_too: bool) -> None:
    one, two = (f"{table}_y{year}" for year in YEARS)
    await attacker.execute("SET allow_system_table_mods = on")
    await attacker.execute(
        f"""
        UPDATE pg_class c SET relpartbound = o.relpartbound FROM pg_class o
        WHERE (c.relname, o.relname) IN (('{one}', '{two}'), ('{two}', '{one}'))
        """
    )
    if names_too:
        for old, new in ((one, "between"), (two, one), ("between", two)):
            await attacker.execute(f"ALTER TABLE {old} RENAME TO {new}")
    else:
        await attacker.execute(f"ALTER TABLE {one} RENAME TO between")  # so that caches forget
        await attacker.execute(f"ALTER TABLE between RENAME TO {one}")


async def test_an_old_state_played_back_is_named_by_the_checkpoint(attacker: Attacker) -> None:
    """The whole database as it was, keys and clocks too: consistent in itself."""
    lane = await Lane.open(attacker.db, "later", KEYRING)
    batch = await admit(lane, KEYRING, ticket("later", depth=1))
    await decide(lane, *batch.tickets)
    await attacker.checkpoint()
    assert (await attacker.verify()).is_intact
    await attacker.restore()
    report = await attacker.verify()
    assert named(report, "lane_deleted") == {(None, str(lane.id), 1, None)}
    assert causes(report) == {"lane_deleted"}


async def test_what_came_after_the_checkpoint_may_be_cut(attacker: Attacker) -> None:
    """The stated limit."""
    await attacker.checkpoint()
    lane = await Lane.open(attacker.db, "later", KEYRING)
    batch = await admit(lane, KEYRING, ticket("later", depth=1))
    await decide(lane, *batch.tickets)
    await attacker.restore()
    assert (await attacker.verify()).is_intact


# What stands beside the sealed tables: table, attack, and the finding, none where it is a limit.
BESIDE = [
    ("ticket_keys", "UPDATE ticket_keys SET content_hash = '\\x00'", "ticket_key_altered"),
    ("ticket_keys", "UPDATE ticket_keys SET as_of = as_of - interval '1 day'", "ticket_missing"),
    ("ticket_keys", "UPDATE ticket_keys SET origin = 'import'", "ticket_missing"),
    ("ticket_keys", "DELETE FROM ticket_keys", "ticket_key_missing"),
    ("decision_keys", "UPDATE decision_keys SET ordinal = ordinal + 1", "decision_missing"),
    (
        "decision_keys",
        "UPDATE decision_keys SET decision_id = gen_random_uuid()",
        "decision_key_missing",
    ),
    ("decision_keys", "DELETE FROM decision_keys", "decision_key_missing"),
    ("workflow_clocks", "UPDATE workflow_clocks SET last_as_of = 'epoch'", "clock_behind"),
    ("workflow_clocks", "DELETE FROM workflow_clocks", "clock_behind"),
    ("workflow_clocks", "UPDATE workflow_clocks SET decided_through = now() + '1 y'", None),
    ("workflow_clocks", "UPDATE workflow_clocks SET history_generation = 7", None),
    ("persons", "INSERT INTO persons VALUES ('eve', now(), 'tests')", "row_not_journaled"),
    ("persons", "UPDATE persons SET created_by = 'eve'", "row_contradicts_journal"),
    ("persons", "DELETE FROM persons WHERE person = 'bob'", "journaled_row_missing"),
    (
        "api_keys",
        "INSERT INTO api_keys SELECT 'ee', person, roles, secret_hash, created_at, created_by "
        "FROM api_keys LIMIT 1",
        "row_not_journaled",
    ),
    ("api_keys", "UPDATE api_keys SET person = 'bob'", "row_contradicts_journal"),
    ("api_keys", "UPDATE api_keys SET roles = '{service}'", "row_contradicts_journal"),
    ("api_keys", "UPDATE api_keys SET secret_hash = sha256('eve')", "row_contradicts_journal"),
    ("api_keys", "UPDATE api_keys SET expires_at = now()", "row_contradicts_journal"),
    ("api_keys", "DELETE FROM api_keys", "journaled_row_missing"),
    ("api_key_revocations", "DELETE FROM api_key_revocations", "journaled_row_missing"),
    (
        "api_key_revocations",
        "INSERT INTO api_key_revocations SELECT key_id, now(), 'eve', '' FROM api_keys "
        "ON CONFLICT DO NOTHING",
        "row_not_journaled",
    ),
    (
        "api_key_revocations",
        "UPDATE api_key_revocations SET revoked_by = 'eve'",
        "row_contradicts_journal",
    ),
    ("audit_lanes", "DELETE FROM audit_lanes", "lane_unregistered"),
    ("audit_lanes", "UPDATE audit_lanes SET writer = 'eve'", None),
    ("history_log", "UPDATE history_log SET totals[1] = totals[1] + 1", None),
    ("history_log", "DELETE FROM history_log", None),
    ("history_slots", "UPDATE history_slots SET slot = slot || ' '", None),
    (
        "shadow_progress",
        "INSERT INTO shadow_progress SELECT release_id, now(), 0, now() FROM releases",
        None,
    ),
    (
        "training_turns",
        "INSERT INTO training_turns (workflow, request, state, asked_at, step, share) "
        "VALUES ('w', '{}', 'running', now(), '', 0)",
        None,
    ),
    (
        "history_builds",
        "INSERT INTO history_builds SELECT workflow, 2, 1, last_as_of, 0, 0 FROM workflow_clocks",
        None,
    ),
]


@pytest.mark.parametrize(("table", "attack", "cause"), BESIDE)
async def test_beside_what_is_sealed(
    attacker: Attacker, table: str, attack: str, cause: str | None
) -> None:
    """What is told by other records is found; totals and numbers of work are not."""
    result = await attacker.execute(attack)
    assert not result.endswith(" 0"), result
    report = await attacker.verify()
    if cause is None:
        assert report.is_intact
    else:
        by = {f.table for f in report.findings if f.cause == cause}
        altered = {"ticket_key_altered": "tickets", "lane_unregistered": None}
        swapped = {"ticket_key_missing": "tickets", "decision_key_missing": "decisions"}
        assert by == {{**altered, **swapped}.get(cause, table)}


async def test_a_ticket_that_the_clock_passes_over_is_named(attacker: Attacker) -> None:
    """Who moves the clock on hides an undecided ticket from those who would decide it."""
    lane = await Lane.open(attacker.db, "later", KEYRING)
    await admit(lane, KEYRING, ticket("waits", depth=1))
    assert (await attacker.verify()).is_intact
    await attacker.execute("UPDATE workflow_clocks SET decided_through = last_as_of")
    report = await attacker.verify()
    assert causes(report) == {"ticket_passed_over"}
    assert report.first is not None
    assert report.first.table == "workflow_clocks"
    assert report.first.key == {"workflow": NAME, "ticket_id": "waits", "revision": "1"}


async def test_every_table_has_been_attacked() -> None:
    beside = {table for table, _, _ in BESIDE}
    rest = {table.name for table in tables.metadata.sorted_tables} - {t.name for t in SEALED}
    assert rest - beside == {
        "audit_seals",
        "ml_shadow_scores",
    }  # the first above, the other a limit
