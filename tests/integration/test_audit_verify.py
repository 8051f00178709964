"""Verification finds and names what a database superuser without the seal key does."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from tests.conftest import YEARS
from tests.databases import DatabaseUrls
from tests.s3 import S3
from tests.store_samples import NAME, admit, decide, record, ticket, told

from tiebreak.audit import checkpoints, crosschecks
from tiebreak.audit.checkpoints import LanesContradicted
from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import Report, verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.blobs import Blobs
from tiebreak.bundles.bucket import Bucket
from tiebreak.bundles.folder import Folder
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.erasure import StillUndecided, erase
from tiebreak.store.outcomes import TicketUnknown

BOTH = pytest.mark.parametrize("blobs", ["folder", "bucket"], indirect=True)


@pytest.fixture
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A folder; a bucket too for tests marked with BOTH."""
    if getattr(request, "param", "folder") == "folder":
        return Folder(tmp_path)
    server: S3 = request.getfixturevalue("s3_server")
    return Bucket(server.settings())


@pytest.fixture
def artifacts(blobs: Blobs) -> ArtifactStore:
    return ArtifactStore(blobs)


@pytest.fixture
async def lane(db: Database, keyring: Keyring) -> Lane:
    """A lane with three seals of tickets, one of an outcome, and decisions in another lane."""
    lane = await Lane.open(db, "admission", keyring)
    decisions = await Lane.open(db, "decision", keyring)
    for i in range(3):
        batch = await admit(lane, keyring, *(ticket(f"T{i}.{j}", depth=j) for j in range(3)))
        await decide(decisions, *batch.tickets)
    await record(lane, keyring, told("T0.0", damage=True))
    return lane


@pytest.fixture
async def check(db: Database, artifacts: ArtifactStore, keyring: Keyring) -> Callable[[], Any]:
    return lambda: verify(db, artifacts, keyring)


async def test_no_check_compares_every_key_with_every_record(many: asyncpg.Connection) -> None:
    vain: dict[str, float] = {}
    async with many.transaction():
        await many.execute(crosschecks.PLANNED)
        for check in crosschecks.CROSS_CHECKS:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {check.statement}"
            plan = orjson.loads(await many.fetchval(explain, 100))
            vain[f"{check.table} {check.cause}"] = compared_in_vain(plan[0]["Plan"])
    assert {name: count for name, count in vain.items() if count > 10 * MANY} == {}


def compared_in_vain(node: dict[str, Any]) -> float:
    """Pairs of rows that the plan's joins looked at and dropped."""
    own = node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"]
    return own + sum(compared_in_vain(each) for each in node.get("Plans", ()))


MANY = 3_000


@pytest.fixture
async def many(db: Database, keyring: Keyring, attacker: asyncpg.Connection) -> asyncpg.Connection:
    """Many decided tickets of one year, and empty partitions for two more, as in a first year."""
    for table in ("tickets", "decisions"):
        for year in {*YEARS} - {2026, 2027, 2028}:
            await attacker.execute(f"DROP TABLE {table}_y{year}")
    lane = await Lane.open(db, "admission", keyring)
    tickets = (ticket(f"T{i}", depth=1) for i in range(MANY))
    batch = await admit(lane, keyring, *tickets, as_of=datetime(2026, 1, 3, tzinfo=UTC))
    await decide(lane, *batch.tickets)
    # As autovacuum does, which leaves out partitioned tables and empty partitions.
    await attacker.execute("ANALYZE ticket_keys, decision_keys, tickets_y2026, decisions_y2026")
    return attacker


@pytest.fixture
async def attacker(database_urls: DatabaseUrls):
    """A superuser for whom no trigger fires."""
    connection = await asyncpg.connect(database_urls.admin)
    await connection.execute("SET session_replication_role = replica")
    yield connection
    await connection.close()


def causes(report: Report) -> set[str]:
    return {finding.cause for finding in report.findings}


async def test_what_nobody_touched_is_intact(lane: Lane, check: Any) -> None:
    report = await check()
    assert report.is_intact
    assert (report.verified, report.erased, report.lanes, report.seals) == (19, 0, 2, 7)
    assert report.first is None


EDITS = [
    ("tickets", "content", "content || ' '"),
    ("tickets", "actor", "'eve'"),
    ("tickets", "received_at", "received_at + interval '1 microsecond'"),
    ("tickets", "context", "NULL"),
    ("tickets", "salt", "sha256(salt)"),
    ("decisions", "score", "score + 1e-15"),
    ("decisions", "band", "0"),
    ("decisions", "base_value", "0.0"),
    ("decisions", "hard_floor", "0"),
    ("decisions", "is_tie", "true"),
    ("decisions", "contributions", "contributions || '\\x00'"),
]


async def test_every_edit_is_named(lane: Lane, check: Any, attacker: asyncpg.Connection) -> None:
    for table in ("tickets", "decisions"):
        await attacker.execute(f"CREATE TEMP TABLE saved_{table} AS TABLE {table}")
    for table, column, value in EDITS:
        await attacker.execute(f"UPDATE {table} SET {column} = {value} WHERE ticket_id = 'T1.1'")
        report = await check()
        assert report.broken == 1, (table, column)
        assert report.first.cause == "record_altered"
        assert report.first.table == table
        assert (report.first.seq, report.first.position) == (2, 1)
        await attacker.execute(f"DELETE FROM {table}")
        await attacker.execute(f"INSERT INTO {table} TABLE saved_{table}")
    assert (await check()).is_intact


async def test_a_deleted_record_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute("DELETE FROM tickets WHERE ticket_id = 'T1.2'")
    report = await check()
    assert report.first.cause == "record_missing"
    assert (report.first.lane, report.first.seq, report.first.position) == (str(lane.id), 2, 2)
    assert "ticket_missing" in causes(report)


async def test_an_inserted_record_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute(
        """
        INSERT INTO decisions SELECT (d).* FROM (SELECT jsonb_populate_record(x, jsonb_build_object(
            'decision_id', gen_random_uuid(), 'seal_position', 99)) AS d FROM decisions x LIMIT 1) y
        """
    )
    report = await check()
    assert report.first.cause == "record_unsealed"
    assert report.first.table == "decisions"
    assert "decision_key_missing" in causes(report)


async def test_a_record_that_claims_anothers_leaf_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute(
        """
        INSERT INTO decisions SELECT (d).* FROM (SELECT jsonb_populate_record(x, jsonb_build_object(
            'decision_id', gen_random_uuid())) AS d FROM decisions x LIMIT 1) y
        """
    )
    report = await check()
    assert {"record_unsealed"} <= causes(report)


async def test_a_seal_cut_off_the_end_leaves_its_records_bare(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute("DELETE FROM audit_seals WHERE lane = $1 AND seq = 4", lane.id)
    report = await check()
    assert report.first.cause == "record_unsealed"
    assert report.first.table == "outcomes"


@BOTH
async def test_a_tail_cut_with_its_records_is_named_by_the_checkpoint(
    lane: Lane,
    check: Any,
    attacker: asyncpg.Connection,
    db: Database,
    artifacts: ArtifactStore,
    keyring: Keyring,
) -> None:
    await checkpoints.write(db, artifacts, keyring)
    assert (await check()).is_intact
    await attacker.execute("DELETE FROM audit_seals WHERE lane = $1 AND seq = 4", lane.id)
    await attacker.execute("DELETE FROM outcomes")
    report = await check()
    assert causes(report) == {"lane_truncated"}
    assert (report.first.lane, report.first.seq) == (str(lane.id), 4)
    with pytest.raises(LanesContradicted):
        await checkpoints.write(db, artifacts, keyring)


@BOTH
async def test_a_whole_lane_deleted_after_a_checkpoint_is_named(
    lane: Lane,
    check: Any,
    attacker: asyncpg.Connection,
    db: Database,
    artifacts: ArtifactStore,
    keyring: Keyring,
) -> None:
    await checkpoints.write(db, artifacts, keyring)
    for table in ("audit_seals", "audit_lanes", "tickets", "outcomes"):
        await attacker.execute(f"DELETE FROM {table} WHERE lane = $1", lane.id)
    for table in ("ticket_keys", "decision_keys", "decisions"):
        await attacker.execute(f"DELETE FROM {table}")
    report = await check()
    assert "lane_deleted" in causes(report)


async def test_a_seal_missing_in_the_middle_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute("DELETE FROM audit_seals WHERE lane = $1 AND seq = 2", lane.id)
    report = await check()
    assert (report.first.cause, report.first.seq) == ("seal_missing", 2)


async def test_swapped_leaves_are_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute(
        """
        UPDATE audit_seals SET leaves =
            substr(leaves, 33, 32) || substr(leaves, 1, 32) || substr(leaves, 65)
        WHERE lane = $1 AND seq = 2
        """,
        lane.id,
    )
    await attacker.execute(
        "UPDATE tickets SET seal_position = 1 - seal_position WHERE lane = $1 AND seal_seq = 2 "
        "AND seal_position < 2",
        lane.id,
    )
    report = await check()
    assert (report.first.cause, report.first.seq) == ("seal_altered", 2)
    assert report.broken == 1


@pytest.mark.parametrize("column", ["sealed_at = sealed_at + interval '1 second'", "head = $2"])
async def test_a_seal_with_another_mac_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection, column: str
) -> None:
    forged = hmac.digest(b"a key of the attacker's own choosing", b"", "sha256")
    arguments = [lane.id, forged] if "$2" in column else [lane.id]
    await attacker.execute(
        f"UPDATE audit_seals SET {column} WHERE lane = $1 AND seq = 4", *arguments
    )
    report = await check()
    assert (report.first.cause, report.first.seq) == ("seal_altered", 4)


async def test_a_seal_of_an_unknown_key_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await attacker.execute("UPDATE audit_seals SET key_id = 'k9' WHERE seq = 3")
    assert "seal_key_unknown" in causes(await check())


async def test_altered_keys_are_named(lane: Lane, check: Any, attacker: asyncpg.Connection) -> None:
    await attacker.execute("UPDATE ticket_keys SET content_hash = '\\x00' WHERE ticket_id = 'T0.0'")
    await attacker.execute("DELETE FROM decision_keys WHERE ticket_id = 'T0.1'")
    await attacker.execute("UPDATE ticket_keys SET as_of = now() WHERE ticket_id = 'T0.2'")
    report = await check()
    assert causes(report) == {
        "ticket_key_altered",
        "decision_key_missing",
        "ticket_key_missing",
        "ticket_missing",
        "clock_behind",
    }


@BOTH
async def test_a_checkpoint_that_was_altered_is_named(
    lane: Lane,
    check: Any,
    db: Database,
    artifacts: ArtifactStore,
    keyring: Keyring,
    blobs: Blobs,
) -> None:
    place = f"checkpoints/{await checkpoints.write(db, artifacts, keyring)}"
    signed = orjson.loads(blobs.get(place) or b"")
    signed["body"] = signed["body"].replace("[3,", "[2,")
    blobs.put(place, orjson.dumps(signed))
    assert causes(await check()) == {"checkpoint_forged"}
    blobs.put(place, b"{")
    assert causes(await check()) == {"checkpoint_forged"}


async def test_a_newest_checkpoint_of_long_ago_is_found(
    lane: Lane,
    check: Any,
    attacker: asyncpg.Connection,
    db: Database,
    artifacts: ArtifactStore,
    keyring: Keyring,
    tmp_path: Path,
) -> None:
    name = await checkpoints.write(db, artifacts, keyring)
    long_ago = "20200101t000000.000000z.json"
    (tmp_path / "checkpoints" / name).rename(tmp_path / "checkpoints" / long_ago)
    await attacker.execute("DELETE FROM audit_seals WHERE lane = $1 AND seq = 4", lane.id)
    await attacker.execute("DELETE FROM outcomes")
    assert causes(await check()) == {"lane_truncated"}


async def erased(lane: Lane, ticket_id: str) -> int:
    async with lane.unit() as unit:
        return await erase(unit, NAME, ticket_id, actor="dpo", reason="asked")


async def test_an_erasure_is_told_from_an_attack(
    lane: Lane, check: Any, db: Database, attacker: asyncpg.Connection
) -> None:
    assert await erased(lane, "T0.0") == 3
    assert await erased(lane, "T0.0") == 0
    report = await check()
    assert report.is_intact
    assert (report.verified, report.erased) == (18, 3)
    assert await db.pool.fetchval("SELECT content FROM tickets WHERE ticket_id = 'T0.0'") is None
    entry = await db.pool.fetchrow("SELECT * FROM system_audit")
    assert (entry["action"], entry["subject"]) == ("ticket.erased", f"{NAME}/T0.0")

    await attacker.execute(
        "UPDATE decisions SET fired = NULL, salt = NULL WHERE ticket_id = 'T0.1'"
    )
    report = await check()
    assert causes(report) == {"erased_without_tombstone"}
    assert report.first.table == "decisions"


async def test_what_erasure_left_is_still_sealed(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await erased(lane, "T0.0")
    await attacker.execute("UPDATE decisions SET band = 0 WHERE ticket_id = 'T0.0'")
    report = await check()
    assert (report.first.cause, report.first.table) == ("record_altered", "decisions")


async def test_an_erased_record_cannot_stand_in_for_another(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    """A record relabelled as one of an erased ticket is not thereby erased."""
    await erased(lane, "T0.0")
    await attacker.execute(
        """
        UPDATE tickets SET ticket_id = 'T0.0', revision = 7, content = NULL, context = NULL,
            salt = NULL WHERE ticket_id = 'T0.1'
        """
    )
    assert "erased_without_tombstone" in causes(await check())


async def test_a_forged_tombstone_is_named(
    lane: Lane, check: Any, attacker: asyncpg.Connection
) -> None:
    await erased(lane, "T0.0")
    await attacker.execute("DELETE FROM erasures")
    report = await check()
    assert {"erased_without_tombstone", "record_missing"} <= causes(report)


async def test_a_ticket_is_erased_only_when_it_is_known_and_decided(
    lane: Lane, keyring: Keyring
) -> None:
    with pytest.raises(TicketUnknown):
        await erased(lane, "nobody")
    await admit(lane, keyring, ticket("waiting"))
    with pytest.raises(StillUndecided):
        await erased(lane, "waiting")


async def test_what_comes_after_an_erasure_is_erased_next_time(
    lane: Lane, keyring: Keyring, check: Any
) -> None:
    await erased(lane, "T0.0")
    batch = await admit(lane, keyring, ticket("T0.0", depth=99))
    await decide(lane, *batch.tickets)
    assert (await check()).is_intact
    assert await erased(lane, "T0.0") == 2
    report = await check()
    assert report.is_intact
    assert report.erased == 5


async def test_no_plain_hash_of_erased_content_stays(
    lane: Lane, db: Database, database_urls: DatabaseUrls
) -> None:
    content = await db.pool.fetchval("SELECT content FROM tickets WHERE ticket_id = 'T0.0'")
    await erased(lane, "T0.0")
    plain = hashlib.sha256(content.encode()).digest()
    assert plain not in [
        row["content_hash"] for row in await db.pool.fetch("SELECT content_hash FROM ticket_keys")
    ]


async def test_verification_reads_one_moment_while_others_write(
    lane: Lane, check: Any, db: Database, keyring: Keyring
) -> None:
    reports = []

    async def write() -> None:
        for i in range(10):
            await admit(lane, keyring, ticket(f"W{i}"))

    writing = asyncio.create_task(write())
    while not writing.done():
        reports.append(await check())
    await writing
    assert all(report.is_intact for report in reports)
