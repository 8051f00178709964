"""Deciding again: on request, by what is stored, once a policy, and everywhere accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from tests import releases
from tests.admitted import admit
from tests.databases import DatabaseUrls, execute
from tests.functional.serving import REPAIRS, RULES, TICKET, prepare, settings_for

from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import verify
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.core.policy import PolicyParts
from tiebreak.core.tickets import Schema, Submission, parse_submission
from tiebreak.core.workflow import Cuts, Field, FieldType, Knobs, Workflow
from tiebreak.decisions.again import FieldsChanged, Request, UnknownRevision
from tiebreak.decisions.batcher import Pending
from tiebreak.decisions.replay import Cause, replay
from tiebreak.decisions.service import DecisionService
from tiebreak.decisions.serving import ErasedTicket
from tiebreak.settings import Keyring
from tiebreak.store import commit, erasure, outdated, reading
from tiebreak.store.outdated import Window
from tiebreak.store.reading import Filters
from tiebreak.store.writes import RecordsLost
from tiebreak.workflows import versions

SCHEMA = Schema(REPAIRS.fields)
STRICT = REPAIRS.model_copy(
    update={"knobs": Knobs(points=Cuts(medium=5, high=10, critical=40), audit_share=0)}
)
WHY = Request("ann", "stricter rules")
EVER = Window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def submission(ticket_id: str, **fields: object) -> Submission:
    body = {"ticket_id": ticket_id, "fields": {**TICKET, "cost": 5000, **fields}}
    parsed = parse_submission(SCHEMA, orjson.dumps(body))
    assert isinstance(parsed, Submission), parsed
    return parsed


@dataclass
class Place:
    """A service, and what changes the policy in production under it."""

    service: DecisionService
    lane: Lane
    keyring: Keyring
    folder: Path

    async def install(self, workflow: Workflow, service: DecisionService | None = None) -> str:
        """Put this version of the workflow into production; its policy's hash."""
        await versions.load(self.lane, workflow, RULES, author="ann", reason="test")
        parts = PolicyParts(workflow.name, workflow.version, RULES.version)
        await releases.put(self.service.db, self.lane, self.keyring, parts)
        await (service or self.service).active.refresh()
        return parts.hash

    async def decide(self, *ticket_ids: str, **fields: object) -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(self.service.decide("repairs", submission(t, **fields), "ann") for t in ticket_ids)
        )

    async def again(self, ticket_id: str, revision: int = 1) -> dict[str, Any]:
        return await self.service.decide_again("repairs", ticket_id, revision, WHY)

    async def journal(self) -> list[Any]:
        rows = await self.service.db.pool.fetch(
            "SELECT * FROM system_audit WHERE action LIKE '%decided_again' ORDER BY at"
        )
        return [dict(row) | {"detail": orjson.loads(row["detail"])} for row in rows]

    async def erase(self, ticket_id: str) -> int:
        async with self.lane.unit() as unit:
            return await erasure.erase(unit, "repairs", ticket_id, actor="dpo", reason="asked")

    async def report(self) -> Any:
        return await verify(self.service.db, ArtifactStore(Folder(self.folder)), self.keyring)


@pytest.fixture
async def place(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncGenerator[Place]:
    """Its policy has no model, or the one whose digest is the parameter."""
    digest = getattr(request, "param", None)
    await asyncio.to_thread(prepare, database_urls, keyring, bundle_digest=digest)
    service = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    lane = await Lane.open(service.db, "tests", keyring)
    yield Place(service, lane, keyring, tmp_path)
    await service.drain()


async def test_a_ticket_is_decided_again_by_what_is_stored_and_the_policy_of_now(
    place: Place,
) -> None:
    (first,) = await place.decide("t")
    policy_hash = await place.install(STRICT)
    again = await place.again("t")
    assert (first["band"], again["band"]) == ("high", "critical")
    assert (again["ordinal"], again["policy_hash"]) == (2, policy_hash)
    assert again["as_of"] == first["as_of"]
    assert again["decision_id"] != first["decision_id"]
    (entry,) = await place.journal()
    assert (entry["actor"], entry["action"]) == ("ann", "ticket.decided_again")
    assert entry["subject"] == "repairs/t"
    assert entry["detail"] == {
        "revision": 1,
        "ordinal": 2,
        "policy_hash": policy_hash,
        "decisions": 1,
        "reason": "stricter rules",
    }


async def test_the_same_policy_gives_the_decision_that_stands(place: Place) -> None:
    (first,) = await place.decide("t")
    assert await place.again("t") == first
    await place.install(STRICT)
    second = await place.again("t")
    assert await place.again("t") == second
    await place.install(REPAIRS)
    third = await place.again("t")
    assert (third["ordinal"], third["band"]) == (3, first["band"])
    assert len(await place.journal()) == 2


async def test_another_engine_decides_again(place: Place) -> None:
    await place.decide("t")
    assert place.service._serving is not None
    place.service._serving.fingerprint = "another engine"
    again = await place.again("t")
    assert (again["ordinal"], again["fingerprint"]) == (2, "another engine")


async def test_requests_at_once_give_one_decision(
    place: Place, database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    await place.decide("t")
    await place.install(STRICT)
    other = await DecisionService.start(settings_for(database_urls, tmp_path), place.keyring)
    try:
        answers = await asyncio.gather(
            *(
                service.decide_again("repairs", "t", 1, WHY)
                for _ in range(10)
                for service in (place.service, other)
            )
        )
    finally:
        await other.drain()
    assert {(a["decision_id"], a["ordinal"]) for a in answers} == {
        (answers[0]["decision_id"], 2),
    }
    assert all(answer == answers[0] for answer in answers)
    assert len(await place.journal()) == 1


async def test_a_rival_with_another_policy_is_followed_not_overwritten(
    place: Place, database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    await place.decide("t")
    other = await DecisionService.start(settings_for(database_urls, tmp_path), place.keyring)
    try:
        behind = other.active.get("repairs")
        strict = await place.install(STRICT)
        await place.again("t")
        assert other._again is not None
        row = await other._again.one(behind, "t", 1, WHY)  # a worker that has not followed yet
    finally:
        await other.drain()
    assert (row["ordinal"], row["policy_hash"]) == (3, behind.policy.hash)
    assert (await place.again("t"))["ordinal"] == 4
    history = await reading.history(place.service.db, "repairs", "t")
    assert history is not None
    assert [d["policy_hash"] == strict for d in history.decisions] == [False, True, False, True]


async def test_a_ticket_admitted_and_not_decided_is_decided_first(place: Place) -> None:
    active = place.service.active.get("repairs")
    await admit(place.service, active, [Pending(submission("t"), "ann")])
    assert (await place.again("t"))["ordinal"] == 1
    assert await place.journal() == []


async def test_what_is_unknown_or_erased_is_refused(place: Place) -> None:
    await place.decide("t")
    for ticket_id, revision in (("nobody", 1), ("t", 2), ("t", 0), ("t", 2**31)):
        with pytest.raises(UnknownRevision):
            await place.again(ticket_id, revision)
    await place.erase("t")
    await place.install(STRICT)
    with pytest.raises(ErasedTicket):
        await place.again("t")
    assert await place.service.decide_many_again("repairs", EVER, WHY) == 0


async def test_a_field_of_another_type_is_a_conflict_and_no_failure(place: Place) -> None:
    await place.decide("t")
    changed = tuple(
        Field(name="people", type=FieldType.TEXT)
        if field.name == "people"
        else Field(name="kind", type=FieldType.INTEGER)
        if field.name == "kind"
        else field
        for field in REPAIRS.fields
    )
    await place.install(REPAIRS.model_copy(update={"fields": changed}))
    with pytest.raises(FieldsChanged):
        await place.again("t")


async def test_a_window_is_decided_again_once_and_counted_before(place: Place) -> None:
    early = await place.decide(*(f"a{i}" for i in range(5)))
    late = await place.decide(*(f"b{i}" for i in range(5)))
    await place.decide("b4", cost=7000)  # its older revision is left alone
    boundary = min(answer["as_of"] for answer in late)
    assert max(answer["as_of"] for answer in early) < boundary
    window = Window(boundary, EVER.until)
    assert await place.service.count_outdated("repairs", EVER) == 0
    await place.install(STRICT)
    assert await place.service.count_outdated("repairs", window) == 5
    assert await place.service.decide_many_again("repairs", window, WHY) == 5
    assert await place.service.decide_many_again("repairs", window, WHY) == 0
    assert await place.service.count_outdated("repairs", EVER) == 5
    db = place.service.db
    ordinals = await db.pool.fetch(
        "SELECT ticket_id, revision FROM decisions WHERE ordinal = 2 ORDER BY ticket_id"
    )
    assert [tuple(row) for row in ordinals] == [
        *((f"b{i}", 1) for i in range(4)),
        ("b4", 2),
    ]
    (entry,) = await place.journal()
    assert (entry["action"], entry["subject"]) == ("tickets.decided_again", "repairs")
    assert (entry["detail"]["decisions"], entry["detail"]["reason"]) == (5, "stricter rules")


async def test_a_window_goes_through_its_batches(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.decide(*(f"t{i}" for i in range(23)))
    await place.install(STRICT)
    monkeypatch.setattr("tiebreak.decisions.again.BATCH", 4)
    seen: list[int] = []
    assert await place.service.decide_many_again("repairs", EVER, WHY, seen.append) == 23
    assert seen == [4, 8, 12, 16, 20, 23]
    assert len(await place.journal()) == 6


async def test_what_was_decided_while_the_model_failed_is_outdated_once_there_is_one(
    place: Place, database_urls: DatabaseUrls
) -> None:
    await place.decide("t", "u")
    change = "UPDATE decisions SET model_status = 'failed' WHERE ticket_id = 't'"
    await execute(database_urls.admin, "SET session_replication_role = replica", change)
    assert place.service._again is not None
    standard = place.service._again.standard(place.service.active.get("repairs"))
    for has_model, expected in ((False, 0), (True, 1)):
        now = replace(standard, has_model=has_model)
        assert await outdated.count(place.service.db, "repairs", EVER, now) == expected
        row = await reading.newest_decision(place.service.db, "repairs", "t", 1)
        assert row is not None
        assert now.holds(row) is not has_model


@pytest.mark.parametrize("place", ["0" * 64], indirect=True)
async def test_a_model_that_fails_again_says_nothing_new(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = await place.decide("t")
    assert first["model"] == {"status": "failed"}
    again = place.service._again
    assert again is not None
    standard = again.standard(place.service.active.get("repairs"))
    monkeypatch.setattr(again.__class__, "standard", lambda *_: replace(standard, has_model=True))
    assert (await place.again("t"))["decision_id"] == first["decision_id"]
    assert await place.service.decide_many_again("repairs", EVER, WHY) == 0
    assert await place.journal() == []


async def test_whatever_reads_the_decisions_of_a_ticket_knows_all_of_them(place: Place) -> None:
    first = (await place.decide("t", "u"))[0]
    await place.install(STRICT)
    second = await place.again("t")
    db = place.service.db

    history = await reading.history(db, "repairs", "t")
    assert history is not None
    assert [d["ordinal"] for d in history.decisions] == [1, 2]
    # A retry of the submission is answered as it was, whatever was decided since.
    assert (await place.decide("t"))[0]["decision_id"] == first["decision_id"]
    listed = await reading.list_decisions(db, "repairs", Filters())
    assert sorted((d["ticket_id"], d["ordinal"]) for d in listed) == [("t", 1), ("t", 2), ("u", 1)]
    paged, after = [], None
    while page := await reading.list_decisions(db, "repairs", Filters(), after=after, limit=1):
        paged += page
        after = (page[-1]["as_of"], page[-1]["decision_id"])
    assert paged == listed
    by_policy = Filters(policy_hash=second["policy_hash"])
    assert [d["ordinal"] for d in await reading.list_decisions(db, "repairs", by_policy)] == [2]
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert await reading.undecided(db, "repairs", through=later, limit=9) == []

    report = await replay(reading.pairs(db, "repairs"), place.service.library)
    assert dict(report.counts) == {Cause.IDENTICAL: 3}


async def test_verification_covers_them_and_names_what_is_altered(
    place: Place, database_urls: DatabaseUrls
) -> None:
    await place.decide("t", "u")
    await place.install(STRICT)
    await place.again("t")
    assert (await place.report()).is_intact
    attacker = await asyncpg.connect(database_urls.admin)
    try:
        await attacker.execute("SET session_replication_role = replica")
        await attacker.execute("DELETE FROM decision_keys WHERE ordinal = 2")
        report = await place.report()
        assert [(f.cause, f.key["ordinal"]) for f in report.findings if f.key] == [
            ("decision_key_missing", "2")
        ]
        await attacker.execute("UPDATE decisions SET band = 0 WHERE ordinal = 2")
        assert (await place.report()).first.cause == "record_altered"
        await attacker.execute("DELETE FROM decisions WHERE ordinal = 2")
        assert (await place.report()).first.cause == "record_missing"
    finally:
        await attacker.close()


async def test_an_erasure_takes_them_along(place: Place) -> None:
    await place.decide("t", "u", remarks="a flood")
    await place.install(STRICT)
    await place.again("t")
    assert await place.erase("t") == 3
    rows = await place.service.db.pool.fetch("SELECT ticket_id, fired, salt FROM decisions")
    assert sorted((r["ticket_id"], r["fired"] is None, r["salt"] is None) for r in rows) == [
        ("t", True, True),
        ("t", True, True),
        ("u", False, False),
    ]
    report = await place.report()
    assert (report.is_intact, report.erased) == (True, 3)
    replayed = await replay(reading.pairs(place.service.db, "repairs"), place.service.library)
    assert dict(replayed.counts) == {Cause.ERASED: 2, Cause.IDENTICAL: 1}


async def test_what_is_erased_meanwhile_is_not_decided_again(place: Place) -> None:
    """Between reading a ticket and storing its decision an erasure may come: nothing stays."""
    await place.decide("t")
    await place.install(STRICT)
    async with place.lane.unit() as unit:
        await erasure.erase(unit, "repairs", "t", actor="dpo", reason="asked")
        deciding = asyncio.create_task(place.again("t"))  # it reads the ticket as it was
        await asyncio.sleep(0.3)
        assert not deciding.done()
    with pytest.raises(ErasedTicket):
        await deciding
    fired = await place.service.db.pool.fetch("SELECT fired FROM decisions")
    assert [row["fired"] for row in fired] == [None]


async def test_an_erasure_sees_what_was_decided_while_it_waited(place: Place) -> None:
    await place.decide("t")
    await place.install(STRICT)
    active, again = place.service.active.get("repairs"), place.service._again
    assert again is not None
    ticket = await again._ticket(active, "t", 1)
    newest = await reading.newest_decision(place.service.db, "repairs", "t", 1)
    assert newest is not None
    rows = again._rows(active, [ticket], [newest])
    other = await Lane.open(place.service.db, "other", place.keyring)
    async with other.unit() as unit:
        assert await erasure.not_erased(unit.conn, rows) == rows
        erasing = asyncio.create_task(place.erase("t"))
        await asyncio.sleep(0.3)
        assert not erasing.done()
        await asyncio.wait_for(place.decide("u"), 5)  # tickets that come in do not wait
        await commit.commit(unit, rows)
    assert await erasing == 3
    assert (await place.report()).is_intact


async def test_no_decision_is_stored_on_a_ticket_that_is_not_there(place: Place) -> None:
    await place.decide("t")
    stored = await reading.newest_decision(place.service.db, "repairs", "t", 1)
    assert stored is not None
    fields = {name: value for name, value in stored.items() if name not in reading.SEAL}
    rows = [fields | {"ordinal": 2, "ticket_id": ticket_id} for ticket_id in ("t", "gone")]
    with pytest.raises(RecordsLost):
        async with place.lane.unit() as unit:
            await commit.commit(unit, rows)
    count = "SELECT count(*) FROM decision_keys"
    assert await place.service.db.pool.fetchval(count) == 1


async def test_recovery_decides_what_is_left_and_notes_how_far_nothing_is(place: Place) -> None:
    serving, active = place.service._serving, place.service.active.get("repairs")
    assert serving is not None
    admitted = [
        (await admit(place.service, active, [Pending(submission(ticket_id), "ann")])).as_of
        for ticket_id in ("a", "b", "c")
    ]
    pool = place.service.db.pool

    async def clock() -> datetime:
        return await pool.fetchval("SELECT decided_through FROM workflow_clocks")

    assert await serving.recover("repairs", through=admitted[0]) == 1
    assert await clock() == admitted[0]
    assert await serving.recover("repairs", through=datetime.now(UTC), limit=1) == 1
    assert await clock() == admitted[0]  # there may be more
    assert await serving.recover("repairs", through=datetime.now(UTC)) == 1
    assert await clock() == admitted[2]
    assert (await place.report()).is_intact


async def test_recovery_notes_no_moment_after_the_newest_ticket(place: Place) -> None:
    serving = place.service._serving
    assert serving is not None
    (told,) = await place.decide("a")
    await serving.recover("repairs", through=datetime.now(UTC) + timedelta(days=1))
    clock = await place.service.db.pool.fetchval("SELECT decided_through FROM workflow_clocks")
    assert clock == told["as_of"]
