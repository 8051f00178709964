"""The decision service against a real database: durable, idempotent, recoverable, replayable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from tests.admitted import admit
from tests.databases import DatabaseUrls
from tests.functional.serving import REPAIRS, TICKET, prepare, settings_for

from tiebreak.core.tickets import Schema, Submission, parse_submission
from tiebreak.decisions import recovery
from tiebreak.decisions import service as service_module
from tiebreak.decisions.batcher import Overloaded, Pending
from tiebreak.decisions.replay import Cause, replay
from tiebreak.decisions.service import DecisionService, Limits
from tiebreak.errors import Conflict
from tiebreak.settings import Keyring
from tiebreak.store import reading
from tiebreak.store.database import Database

SCHEMA = Schema(REPAIRS.fields)


def submission(ticket_id: str, revision: int | None = None, **fields: object) -> Submission:
    body = {"ticket_id": ticket_id, "revision": revision, "fields": {**TICKET, **fields}}
    parsed = parse_submission(SCHEMA, orjson.dumps({k: v for k, v in body.items() if v}))
    assert isinstance(parsed, Submission), parsed
    return parsed


@pytest.fixture
async def service(
    database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> AsyncGenerator[DecisionService]:
    await asyncio.to_thread(prepare, database_urls, keyring)
    started = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    yield started
    await started.drain()


async def decide(service: DecisionService, *submissions: Submission) -> list[dict]:
    return await asyncio.gather(*(service.decide("repairs", s, "ann") for s in submissions))


async def test_concurrent_tickets_share_a_batch_and_its_as_of(service: DecisionService) -> None:
    answers = await decide(service, *(submission(f"t{i}", cost=i) for i in range(40)))
    assert [a["ticket_id"] for a in answers] == [f"t{i}" for i in range(40)]
    assert len({a["as_of"] for a in answers}) < 40
    assert len({a["decision_id"] for a in answers}) == 40


async def test_the_same_content_gives_the_same_decision_and_other_content_a_revision(
    service: DecisionService,
) -> None:
    a, b = submission("t", cost=1), submission("t", cost=5000)
    first, again = [(await decide(service, a))[0] for _ in range(2)]
    second, third = [(await decide(service, s))[0] for s in (b, a)]
    assert again == first
    assert [first["revision"], second["revision"], third["revision"]] == [1, 2, 3]
    assert [first["band"], second["band"], third["band"]] == ["low", "high", "low"]


async def test_duplicates_in_one_batch_share_one_answer(service: DecisionService) -> None:
    answers = await decide(service, *(submission("same") for _ in range(20)))
    assert len({a["decision_id"] for a in answers}) == 1


async def test_a_taken_revision_with_other_content_is_a_conflict(service: DecisionService) -> None:
    await decide(service, submission("t", cost=1))
    with pytest.raises(Conflict):
        await decide(service, submission("t", 1, cost=2))
    with pytest.raises(Conflict):
        await decide(service, submission("t", 7, cost=2))
    assert (await decide(service, submission("t", 2, cost=2)))[0]["revision"] == 2


async def test_tickets_admitted_before_a_crash_are_decided_at_start(
    service: DecisionService, database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    batch = [Pending(submission(f"lost{i}"), "ann") for i in range(5)]
    await admit(service, service.active.get("repairs"), batch)  # as after kill -9
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert len(await reading.undecided(service.db, "repairs", through=later, limit=9)) == 5

    restarted = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    try:
        assert await reading.undecided(service.db, "repairs", through=later, limit=9) == []
        answer = (await decide(restarted, batch[0].submission))[0]
        assert answer["revision"] == 1
    finally:
        await restarted.drain()


async def test_what_was_admitted_before_the_clock_was_set_back_is_decided(
    service: DecisionService, database_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`as_of` never goes back, so it may be ahead of the time of day."""
    monkeypatch.setattr(recovery, "LEFT_SECONDS", 0.1)
    monkeypatch.setattr(recovery, "LOOK_SECONDS", 0.1)
    admin = await asyncpg.connect(database_urls.admin)
    try:
        await decide(service, submission("first"))
        await admin.execute("UPDATE workflow_clocks SET last_as_of = now() + interval '1 hour'")
    finally:
        await admin.close()
    batch = [Pending(submission("ahead"), "ann")]
    await admit(service, service.active.get("repairs"), batch)
    for _ in range(200):
        if await reading.first_decision(service.db, "repairs", "ahead", 1) is not None:
            break
        await asyncio.sleep(0.1)
    else:
        pytest.fail("it is still undecided")


async def test_a_look_for_what_was_left_takes_up_where_the_last_one_ended(
    service: DecisionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tickets come, each look goes through those of a moment."""
    serving = service._serving
    assert serving is not None
    for keeper in service._keepers:
        keeper.cancel()
    looked = recovery.Recovery(service.db, serving)
    monkeypatch.setattr(recovery, "LEFT_SECONDS", 0.3)
    monkeypatch.setattr(recovery, "LOOK_SECONDS", 0.0)
    through: list[datetime] = []
    recover = serving.recover

    async def noted(workflow: str, **given: Any) -> int:
        through.append(given["through"])
        return await recover(workflow, **given)

    monkeypatch.setattr(serving, "recover", noted)
    answers: list[dict] = []
    for number in range(6):
        answers += await decide(service, submission(f"t{number}"))
        await looked.look(["repairs"])
        await asyncio.sleep(0.1)
    assert through == sorted(set(through))  # never the same twice
    assert len(through) >= 3
    assert through[-1] < answers[-2]["as_of"]  # 0.3 seconds behind
    await asyncio.sleep(0.3)
    await looked.look(["repairs"])
    asked = len(through)
    await looked.look(["repairs"])
    assert len(through) == asked  # there is nothing to look for
    clock = "SELECT decided_through FROM workflow_clocks"
    assert await service.db.pool.fetchval(clock) == answers[-1]["as_of"] == through[-1]


async def test_following_production_outlives_whatever_goes_wrong(
    service: DecisionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise ValueError("nobody foresaw this")

    with monkeypatch.context() as broken:
        broken.setattr(service._recovery, "look", fails)
        await asyncio.sleep(3 * service_module.REFRESH_SECONDS)
        assert "keeping_failed" in {problem.code for problem in service.problems()}
    await asyncio.sleep(3 * service_module.REFRESH_SECONDS)
    assert service.is_ready


async def test_a_ticket_that_another_worker_left_undecided_is_finished(
    service: DecisionService,
) -> None:
    orphan = submission("orphan")
    await admit(service, service.active.get("repairs"), [Pending(orphan, "ann")])
    answer = (await decide(service, orphan))[0]
    assert answer["revision"] == 1
    assert answer == (await decide(service, orphan))[0]


async def test_two_workers_that_decide_the_same_ticket_give_one_decision(
    service: DecisionService, database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    other = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    try:
        answers = await asyncio.gather(
            *(
                worker.decide("repairs", submission(f"t{i}"), "ann")
                for i in range(30)
                for worker in (service, other)
            )
        )
    finally:
        await other.drain()
    assert len({a["decision_id"] for a in answers}) == 30
    async with service.db.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM decisions") == 30
        assert await conn.fetchval("SELECT count(*) FROM tickets") == 30


async def test_the_answer_is_the_decision_that_was_stored_first(
    service: DecisionService, database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    other = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    assert service._serving is not None
    assert other._serving is not None
    try:
        async with service._serving._decision_lane._turn:  # nothing is stored meanwhile
            asked = asyncio.create_task(service.decide("repairs", submission("t"), "ann"))
            later = datetime.now(UTC) + timedelta(minutes=1)
            for _ in range(500):
                if await other._serving.recover("repairs", through=later):
                    break
                await asyncio.sleep(0.01)
        answer = await asked
    finally:
        await other.drain()
    async with service.db.connection() as conn:
        stored = await conn.fetchval("SELECT decided_at FROM decisions")
    assert answer["decided_at"] == stored


async def test_replay_is_identical_and_names_what_is_not(
    service: DecisionService, db: Database, database_urls: DatabaseUrls
) -> None:
    texts = ("a flood", "calm", "x" * 200)
    await decide(
        service,
        *(
            submission(f"t{i}", cost=i * 37.1, remarks=texts[i % 3], urgent=i % 5 == 0)
            for i in range(90)
        ),
    )
    report = await replay(reading.pairs(db, "repairs"), service.library)
    assert dict(report.counts) == {Cause.IDENTICAL: 90}

    conn = await asyncpg.connect(database_urls.admin)
    try:
        await conn.execute("SET session_replication_role = replica")
        await conn.execute("UPDATE decisions SET band = 3 WHERE ticket_id = 't1'")
        await conn.execute("UPDATE decisions SET fingerprint = 'other' WHERE ticket_id = 't2'")
        await conn.execute("UPDATE decisions SET policy_hash = 'gone' WHERE ticket_id = 't3'")
    finally:
        await conn.close()
    report = await replay(reading.pairs(db, "repairs"), service.library)
    assert report.counts[Cause.IDENTICAL] == 88
    found = {r.ticket_id: (r.cause, r.columns) for r in report.unexpected}
    assert found == {"t1": (Cause.DIFFERENT, ("band",)), "t3": (Cause.POLICY_MISSING, ())}
    assert not report.is_clean


async def test_a_full_queue_refuses_at_once(
    service: DecisionService, database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    settings = settings_for(database_urls, tmp_path)
    small = await DecisionService.start(settings, keyring, Limits(queue_size=2, batch_max=1))
    try:
        results = await asyncio.gather(
            *(small.decide("repairs", submission(f"t{i}"), "ann") for i in range(50)),
            return_exceptions=True,
        )
    finally:
        await small.drain()
    refused = [r for r in results if isinstance(r, Overloaded)]
    assert refused
    assert len(refused) + sum(isinstance(r, dict) for r in results) == 50


async def test_draining_answers_what_waits(
    service: DecisionService, database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    other = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    waiting = [
        asyncio.create_task(other.decide("repairs", submission(f"t{i}"), "ann")) for i in range(99)
    ]
    await asyncio.sleep(0)
    await other.drain()
    assert len({a["decision_id"] for a in await asyncio.gather(*waiting)}) == 99
