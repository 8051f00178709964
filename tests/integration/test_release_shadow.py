"""Candidates in shadow: they score what production decides, and never touch it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.databases import DatabaseUrls
from tests.keys import KEYRING
from tests.shadowed import NAME, RULES, SAMPLE, SCHEMA, Kind, Site, settled, submit
from tests.store_samples import feature

from tiebreak.core.decide import decide_stored
from tiebreak.core.stored import StoredTicket
from tiebreak.core.workflow import Entity
from tiebreak.decisions.service import DecisionService
from tiebreak.embedded import candidates
from tiebreak.registry import records
from tiebreak.release import shadow
from tiebreak.release.releases import Release, get
from tiebreak.release.scoring import Scorer
from tiebreak.release.states import State
from tiebreak.settings import Settings
from tiebreak.store import shadows
from tiebreak.store.database import Database


@pytest.fixture
def settings(
    database_urls: DatabaseUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    return settled(database_urls, tmp_path, monkeypatch)


@pytest.fixture
async def site(db: Database, settings: Settings) -> Site:
    return await Site.open(db, settings.artifacts_dir)


@pytest.fixture
async def service(settings: Settings) -> AsyncGenerator[DecisionService]:
    started = await DecisionService.start(settings, KEYRING)
    yield started
    await started.drain()


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[None]:
    """The process that lets candidates run, here."""
    stop = asyncio.Event()
    task = asyncio.create_task(candidates.run(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def until(site: Site, release: Release, holds: Any, seconds: float = 60) -> shadow.Status:
    end = asyncio.get_running_loop().time() + seconds
    while True:
        told = await shadow.status(site.office.db, await get(site.office.db, release.release_id))
        if holds(told):
            return told
        assert asyncio.get_running_loop().time() < end, told
        await asyncio.sleep(0.1)


async def scores(db: Database, release: Release) -> list[dict[str, Any]]:
    rows = await db.pool.fetch(
        "SELECT * FROM ml_shadow_scores WHERE policy_hash = $1 ORDER BY as_of, ticket_id",
        release.policy_hash,
    )
    return [dict(row) for row in rows]


async def test_a_candidate_scores_every_ticket_once_with_the_bits_it_would_decide_with(
    site: Site, service: DecisionService, settings: Settings
) -> None:
    await submit(service, range(30))  # before the shadow: not its own
    release = await site.candidate()
    await shadow.start(site.office, release.release_id, actor="ann")
    async with running(settings):
        answers = await submit(service, range(30, 130))
        told = await until(site, release, lambda s: s.scored == 100)
    assert told.lag_seconds == 0
    assert told.error is None
    assert told.tickets_per_second
    found = await scores(site.office.db, release)
    assert {row["ticket_id"] for row in found} == {a["ticket_id"] for a in answers}
    policy = (await site.office.library.get(release.policy_hash)).policy
    stored = await site.office.db.pool.fetch("SELECT * FROM tickets WHERE workflow = $1", NAME)
    tickets = {row["ticket_id"]: StoredTicket.from_row(row, SCHEMA) for row in stored}
    decisions = decide_stored([tickets[row["ticket_id"]] for row in found], SCHEMA, policy)
    assert decisions.model is not None
    assert [row["margin"] for row in found] == decisions.model.margin.tolist()
    assert [row["score"] for row in found] == decisions.model.score.tolist()
    assert [row["band"] for row in found] == decisions.arbitration.band.tolist()
    assert len({row["band"] for row in found}) > 1


@pytest.mark.full
async def test_it_resumes_after_kill_9_without_doubling_or_gaps(
    site: Site, service: DecisionService, settings: Settings
) -> None:
    release = await site.candidate()
    await shadow.start(site.office, release.release_id, actor="ann")
    async with running(settings):
        for number in range(3):
            before = 1 + 60 * number
            await submit(service, range(60 * number, 60 * number + 60))
            await until(site, release, lambda s, n=before: s.scored >= n)
            _kill(settings, release, signal.SIGKILL)
        await submit(service, range(180, 200))
        await until(site, release, lambda s: s.scored >= 200)
    assert len(await scores(site.office.db, release)) == 200


async def test_two_that_score_for_one_candidate_store_each_ticket_once(
    site: Site, service: DecisionService
) -> None:
    release = await site.candidate()
    await shadow.start(site.office, release.release_id, actor="ann")
    await submit(service, range(150))
    (mine,) = await shadow.assignments(site.office.db)
    policy = (await site.office.library.get(release.policy_hash)).policy
    scorer = Scorer(site.office.db, KEYRING, mine, policy, frozenset(), 60.0, "here")
    await asyncio.gather(*(scorer.step() for _ in range(4)))
    while await scorer.step() is not None:
        pass
    assert len(await scores(site.office.db, release)) == 150
    done = await shadows.progress(site.office.db, release.release_id)
    assert done is not None
    assert done.scored == 150


async def test_a_sample_is_the_same_tickets_whoever_scores(
    site: Site, service: DecisionService
) -> None:
    found: list[set[str]] = []
    await submit(service, range(300))
    for share, rules in ((0.2, None), (0.5, RULES.model_copy(update={"rules": RULES.rules[:1]}))):
        release = await site.candidate(rules=rules)
        since = datetime.now(UTC) - timedelta(hours=1)
        await shadow.start(site.office, release.release_id, actor="ann", share=share, since=since)
        for mine in await shadow.assignments(site.office.db):
            policy = (await site.office.library.get(mine.subject.policy_hash)).policy
            scorer = Scorer(site.office.db, KEYRING, mine, policy, frozenset(), 60.0, "here")
            while await scorer.step() is not None:
                pass
        found.append({row["ticket_id"] for row in await scores(site.office.db, release)})
    assert found[0] < found[1]
    assert 30 < len(found[0]) < 95
    assert 110 < len(found[1]) < 190


CAUSES: dict[Kind, str] = {
    "fails": "failed",
    "not_finite": "not_finite",
    "wrong_count": "wrong_count",
    "slow": "too_slow",
    "hangs": "hung",
    "eats_memory": "failed",
}


@pytest.mark.timeout(240)
@pytest.mark.full
async def test_bad_candidates_are_quarantined_and_production_answers(
    site: Site,
    service: DecisionService,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(candidates, "HANG_SECONDS", 5.0)
    bad = {kind: await site.candidate(kind) for kind in CAUSES}
    for release in bad.values():
        await shadow.start(site.office, release.release_id, actor="ann")
    answered = 0
    async with running(settings):
        waiting = set(bad)
        for begin in range(0, 100_000, 20):
            answers = await submit(service, range(begin, begin + 20))
            answered += len(answers)
            assert all(a["model"]["status"] == "absent" for a in answers)
            for kind in list(waiting):
                if (await get(site.office.db, bad[kind].release_id)).state is State.QUARANTINED:
                    waiting.remove(kind)
            if not waiting:
                break
            await asyncio.sleep(0.3)
    assert answered == begin + 20
    for kind, release in bad.items():
        told = await shadow.status(site.office.db, await get(site.office.db, release.release_id))
        assert told.error is not None
        assert told.error["cause"] == CAUSES[kind], (kind, told.error)
        assert await scores(site.office.db, release) == [] or kind in ("hangs",)
    assert answered == await site.office.db.pool.fetchval("SELECT count(*) FROM decisions")


async def test_a_worker_that_is_stopped_is_killed_and_its_candidate_quarantined(
    site: Site,
    service: DecisionService,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(candidates, "HANG_SECONDS", 1.0)
    release = await site.candidate()
    await shadow.start(site.office, release.release_id, actor="ann")
    async with running(settings):
        await submit(service, range(10))
        await until(site, release, lambda s: s.scored == 10)
        pid = _kill(settings, release, signal.SIGSTOP)
        told = await until(site, release, lambda s: s.error is not None)
    assert told.error is not None
    assert told.error["cause"] == "hung"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert len(await submit(service, range(10, 20))) == 10


async def test_a_candidate_that_reads_history_nobody_keeps_is_not_ready(
    site: Site, service: DecisionService
) -> None:
    await submit(service, range(3))
    site.workflow = SAMPLE.model_copy(
        update={
            "entities": (Entity(name="town", key=("city",)),),
            "features": (*SAMPLE.features, feature("digs", "count", entity="town")),
        }
    )
    release = await site.candidate(rules=RULES)
    with pytest.raises(shadow.NotReady, match="not kept: digs") as raised:
        await shadow.start(site.office, release.release_id, actor="ann")
    assert "tiebreak history rebuild" in raised.value.hint
    assert (await get(site.office.db, release.release_id)).state is State.DRAFT


async def test_it_stops_and_goes_on_where_it_ended(site: Site, service: DecisionService) -> None:
    release = await site.candidate()
    office = site.office
    await shadow.start(office, release.release_id, actor="ann")
    await shadow.stop(office, release.release_id, actor="ann", reason="enough")
    assert await shadow.assignments(office.db) == []
    await submit(service, range(5))
    await shadow.start(office, release.release_id, actor="ann")
    (mine,) = await shadow.assignments(office.db)
    policy = (await office.library.get(release.policy_hash)).policy
    scorer = Scorer(office.db, KEYRING, mine, policy, frozenset(), 60.0, "here")
    assert await scorer.step() == 5
    assert await scorer.step() is None
    now = await records.current(office.db, KEYRING)
    assert not isinstance(now[NAME], records.ForgedRelease)


def _kill(settings: Settings, release: Release, number: signal.Signals) -> int:
    """Send a signal to the process of this candidate; its pid."""
    wanted = str(release.release_id).encode()
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes()
        except OSError:
            continue
        if wanted in words and b"shadow_worker" in words:
            pid = int(place.parent.name)
            os.kill(pid, number)
            return pid
    raise AssertionError("it does not run")
