"""Canaries: they decide their share and nothing else, and are rolled back when they do harm."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests import releases
from tests.admitted import admit
from tests.databases import DatabaseUrls, execute, run
from tests.keys import KEYRING
from tests.shadowed import NAME, RULES, SAMPLE, SCHEMA, Kind, Site, settled, submission, submit
from tests.store_samples import feature

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.decide import Decisions, decide, decide_stored
from tiebreak.core.policy import Policy, PolicyParts
from tiebreak.core.release_plan import CanaryStep as PlannedStep
from tiebreak.core.release_plan import ReleasePlan
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.workflow import Entity, Knobs, RuleSet
from tiebreak.decisions import serving as serving_module
from tiebreak.decisions.active import Active
from tiebreak.decisions.batcher import Pending
from tiebreak.decisions.replay import COMPARED, Cause, replay
from tiebreak.decisions.rows import CANARY_FAILED, decision_rows, is_standing_in
from tiebreak.decisions.service import DecisionService
from tiebreak.decisions.upkeep import Upkeep
from tiebreak.registry import records
from tiebreak.registry.models import Catalogue
from tiebreak.release import canary
from tiebreak.release.approvals import NotApproved, approve
from tiebreak.release.canary_plan import CanaryPlan, CanaryStep
from tiebreak.release.demotion import Target, demote
from tiebreak.release.events import events_of
from tiebreak.release.promotion import promote
from tiebreak.release.releases import Release, get
from tiebreak.release.states import Kind as Event
from tiebreak.release.states import NotInThisState, Stage, State
from tiebreak.settings import Settings
from tiebreak.store import reading
from tiebreak.store.database import Database
from tiebreak.store.keyed import canary_hash, share_end
from tiebreak.workflows import versions

PLAN = CanaryPlan(
    steps=(CanaryStep(20, timedelta(0), 5), CanaryStep(50, timedelta(0), 10)), alpha=0.05
)
HALF = replace(PLAN, steps=(CanaryStep(50, timedelta(hours=1), 1_000),))  # at once, and to stay


WHY: dict[str, Any] = {"author": "ann", "reason": "wrong"}


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


async def approved(site: Site, release: Release) -> Release:
    """Through shadow and the gates before a canary, and approved by another person."""
    await releases.tell(site.office, release, Event.SHADOW_STARTED)
    await releases.gated(site.office, release, Stage.CANARY)
    await approve(site.office, release.release_id, Stage.CANARY, approver="bob")
    return release


async def into_production(site: Site, release: Release) -> None:
    """All the way, and approved by another person."""
    await releases.tell(site.office, release, Event.SHADOW_STARTED)
    await releases.gated(site.office, release, Stage.PROMOTION)
    await approve(site.office, release.release_id, Stage.PROMOTION, approver="bob")
    await promote(site.office, release.release_id, author="ann", reason="test")


async def started(
    site: Site, service: DecisionService, percent: int, kind: Kind = "sound", **more: Any
) -> Release:
    release = await approved(site, await site.candidate(kind, **more))
    plan = PLAN if percent == 20 else HALF
    await canary.start(site.office, release.release_id, actor="ann", plan=plan, percent=percent)
    await service.active.refresh()
    return release


async def through(site: Site, release: Release) -> None:
    """Let a canary be through its steps, pass its gates and be approved for promotion."""
    await releases.tell(site.office, release, Event.CANARY_FINISHED, actor="system")
    await releases.gated(site.office, release, Stage.PROMOTION)
    await approve(site.office, release.release_id, Stage.PROMOTION, approver="bob")


async def settle(service: DecisionService) -> None:
    """Let it be known that everything is decided."""
    assert service._serving is not None
    await service._serving.recover(NAME, through=datetime.now(UTC))


async def test_a_canary_decides_its_share_by_ticket_and_keeps_it_as_the_share_grows(
    site: Site, service: DecisionService
) -> None:
    release = await started(site, service, 20)
    taken: list[set[str]] = []
    for percent in (20, 50, 100):
        if percent == 100:
            await through(site, release)
        if percent > 20:
            await canary.step(
                site.office, release.release_id, actor="ann", plan=PLAN, percent=percent
            )
            await service.active.refresh()
        begin = percent * 1_000
        answers = await submit(service, range(begin, begin + 200))
        mine = {a["ticket_id"] for a in answers if a["policy_hash"] == release.policy_hash}
        end = share_end(percent / 100)
        assert mine == {
            a["ticket_id"]
            for a in answers
            if canary_hash(KEYRING.sampling_key, release.release_id, a["ticket_id"]) < end
        }
        assert all(("top_contributions" in a["model"]) == (a["ticket_id"] in mine) for a in answers)
        active = service.active.get(NAME)
        assert active.canary is not None
        taken.append({f"t{n}" for n in range(2_000) if active.canary.takes(f"t{n}")})
    assert taken[0] < taken[1] < taken[2] == {f"t{n}" for n in range(2_000)}
    assert 330 < len(taken[0]) < 470
    report = await replay(reading.pairs(site.office.db, NAME), service.library)
    assert dict(report.counts) == {Cause.IDENTICAL: 600}
    await canary.stop(site.office, release.release_id, actor="ann", reason="test")
    await service.active.refresh()
    answers = await submit(service, range(300))
    assert release.policy_hash not in {a["policy_hash"] for a in answers}


async def test_the_model_of_a_canary_is_in_use_for_as_long_as_it_decides(
    site: Site, service: DecisionService, settings: Settings
) -> None:
    release = await started(site, service, 20)
    digest = (await site.office.library.parts(release.policy_hash)).bundle_digest
    assert digest is not None
    artifacts = ArtifactStore.of(settings)
    catalogue = Catalogue(site.office.db, artifacts, BundleKeys.of(KEYRING), KEYRING)
    assert service.active.bundles() == (digest,)
    assert [model.uses for model in await catalogue.list()] == [(f"{NAME}: canary",)]
    upkeep = Upkeep(artifacts, service.active)
    await upkeep.look()
    assert upkeep.problems == ()
    (settings.artifacts_dir / "bundles" / f"{digest}.bundle").unlink()
    await upkeep.look()
    assert [problem.code for problem in upkeep.problems] == ["bundle_missing"]
    await canary.stop(site.office, release.release_id, actor="ann", reason="test")
    await service.active.refresh()
    assert service.active.bundles() == ()
    await upkeep.look()
    assert upkeep.problems == ()


async def test_the_share_is_independent_of_the_audit_sample(
    site: Site, service: DecisionService
) -> None:
    await started(site, service, 30)
    active = service.active.get(NAME)
    assert active.canary is not None
    await submit(service, range(400))
    rows = await site.office.db.pool.fetch("SELECT ticket_id, ticket_hash FROM tickets")
    low = [row["ticket_id"] for row in rows if row["ticket_hash"] < share_end(0.3)]
    both = [ticket_id for ticket_id in low if active.canary.takes(ticket_id)]
    assert 0.1 < len(both) / len(low) < 0.5


async def test_splitting_a_batch_changes_no_bit_of_any_decision(
    site: Site, service: DecisionService
) -> None:
    release = await started(site, service, 50)
    await submit(service, range(120))
    rows = await site.office.db.pool.fetch("SELECT * FROM tickets ORDER BY ticket_id")
    tickets = [StoredTicket.from_row(row, SCHEMA) for row in rows]
    active, serving = service.active.get(NAME), service._serving
    assert active.canary is not None
    assert serving is not None
    expected: dict[str, dict[str, Any]] = {}
    for policy in (active.policy, active.canary.policy):
        told = decision_rows(
            tickets,
            decide_stored(tickets, SCHEMA, policy),
            ordinals=[1] * len(tickets),
            decided_at=datetime.now(UTC),
            fingerprint=serving.fingerprint,
        )
        is_canary = policy is active.canary.policy
        expected |= {
            row["ticket_id"]: row
            for row in told
            if active.canary.takes(row["ticket_id"]) == is_canary
        }

    @hypothesis_settings(
        max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    @given(chosen=st.lists(st.sampled_from(tickets), min_size=1, unique_by=lambda t: t.ticket_id))
    def check(chosen: list[StoredTicket]) -> None:
        given_columns = columns_of(active, chosen)
        found = serving._rows_of_both(active, active.canary, chosen, given_columns)
        assert [row["ticket_id"] for row in found] == [t.ticket_id for t in chosen]
        for row in found:
            wanted = expected[row["ticket_id"]]
            assert all(row[name] == wanted[name] for name in (*COMPARED, "policy_hash"))

    check()
    stored = await site.office.db.pool.fetch("SELECT * FROM decisions")
    assert {row["policy_hash"] for row in stored} == {active.policy.hash, release.policy_hash}
    for row in stored:
        assert all(row[name] == expected[row["ticket_id"]][name] for name in COMPARED)


def columns_of(active: Active, tickets: list[StoredTicket]) -> Any:
    return columns(tickets, active.schema, active.history.context_columns)


@pytest.mark.parametrize("kind", ["fails", "not_finite", "wrong_count"])
async def test_where_a_canary_fails_production_answers_and_the_decision_says_so(
    site: Site, service: DecisionService, kind: Kind
) -> None:
    release = await started(site, service, 50, kind)
    answers = await submit(service, range(100))
    production = service.active.get(NAME).policy.hash
    assert {a["policy_hash"] for a in answers} == {production}
    end = share_end(0.5)
    for answer in answers:
        key = canary_hash(KEYRING.sampling_key, release.release_id, answer["ticket_id"])
        assert (CANARY_FAILED in answer["errors"]) == (key < end)
    report = await replay(reading.pairs(site.office.db, NAME), service.library)
    assert dict(report.counts) == {Cause.IDENTICAL: 100}


async def test_a_canary_beside_another_production_or_a_forged_one_decides_nothing(
    site: Site, service: DecisionService, database_urls: DatabaseUrls
) -> None:
    release = await started(site, service, 50)
    conn = await asyncpg.connect(database_urls.admin)
    try:
        await conn.execute("SET session_replication_role = replica")
        await conn.execute("UPDATE canary_records SET percent = 49")
        await service.active.refresh()
        assert service.active.get(NAME).canary is None
        assert [problem.code for problem in service.problems()] == ["forged_canary"]
        await conn.execute("UPDATE canary_records SET percent = 50")
        await service.active.refresh()
        assert service.active.get(NAME).canary is not None
        assert service.problems() == []
    finally:
        await conn.close()
    other = RULES.model_copy(update={"rules": RULES.rules[:1]})
    await versions.load(site.office.lane, SAMPLE, other, author="ann", reason="test")
    parts = await site.office.library.parts(release.policy_hash)
    moved = replace(parts, rules_version=other.version, bundle_digest=None)
    await releases.put(site.office.db, site.office.lane, KEYRING, moved)
    conn = await asyncpg.connect(database_urls.admin)
    try:  # as if the promotion had not taken its share
        await conn.execute("SET session_replication_role = replica")
        await conn.execute("DELETE FROM canary_records WHERE percent = 0")
    finally:
        await conn.close()
    await service.active.refresh()
    assert service.active.get(NAME).canary is None
    answers = await submit(service, range(5))
    assert {a["policy_hash"] for a in answers} == {moved.hash}


async def test_what_a_canary_left_undecided_is_decided_by_production(
    site: Site, service: DecisionService
) -> None:
    """It may have been what hung or killed the worker, and would hang the next one."""
    release = await started(site, service, 50, "hangs")
    serving, active = service._serving, service.active.get(NAME)
    assert serving is not None
    assert active.canary is not None
    batch = [Pending(submission(n), "ann") for n in range(30)]
    await admit(service, active, batch)
    assert await serving.recover(NAME, through=datetime.now(UTC)) == 30
    rows = await site.office.db.pool.fetch("SELECT * FROM decisions")
    assert {row["policy_hash"] for row in rows} == {active.policy.hash} != {release.policy_hash}
    for row in rows:
        assert is_standing_in(row) == active.canary.takes(row["ticket_id"])


async def test_a_canary_that_hangs_does_not_hold_the_history(
    site: Site,
    service: DecisionService,
    database_urls: DatabaseUrls,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = await started(site, service, 50)
    await submit(service, range(5))  # now there is something to lock
    lock = "SELECT FROM workflow_clocks FOR UPDATE"
    locked = list[bool]()

    def look_and_decide(tickets: Any, context: Any, policy: Policy) -> Decisions:
        if policy.parts.hash == release.policy_hash:
            run(execute(database_urls.admin, "SET lock_timeout = '2s'", lock))
            locked.append(True)
        return decide(tickets, context, policy)

    monkeypatch.setattr(serving_module, "decide", look_and_decide)
    answers = await submit(service, range(5, 30))
    assert release.policy_hash in {a["policy_hash"] for a in answers}
    assert locked


async def test_a_production_model_that_fails_leaves_the_rules_to_decide(
    site: Site, service: DecisionService
) -> None:
    await into_production(site, await site.candidate("fails"))
    await service.active.refresh()
    active = service.active.get(NAME)
    assert active.policy.model is not None
    answers = await submit(service, range(20))
    assert {a["policy_hash"] for a in answers} == {active.policy.hash}
    assert [a["model"] for a in answers] == [{"status": "failed"}] * 20


async def test_a_canary_whose_model_does_not_load_decides_nothing(
    site: Site, service: DecisionService
) -> None:
    release = await approved(site, await site.candidate())
    await canary.start(site.office, release.release_id, actor="ann", plan=HALF)
    for file in site.artifacts.glob("bundles/*"):
        file.unlink()
    await service.active.refresh()
    answers = await submit(service, range(20))
    assert release.policy_hash not in {a["policy_hash"] for a in answers}
    (problem,) = service.problems()
    assert problem.where == f"workflows.{NAME}.canary"


async def test_admission_gives_tickets_what_either_reads(
    site: Site, service: DecisionService, database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    """Production counts a town's digs, the canary those of a week; the log keeps both."""
    town = Entity(name="town", key=("city",))
    counts = feature("town_digs", "count", entity="town")
    week = feature("town_week", "count", entity="town", window_days=7)
    plain = SAMPLE.model_copy(
        update={"name": "digs2", "entities": (town,), "features": (*SAMPLE.features, counts)}
    )
    wider = plain.model_copy(update={"features": (*plain.features, week)})
    office = site.office
    for workflow in (plain, wider):
        await versions.load(office.lane, workflow, RULES, author="ann", reason="test")
    parts = PolicyParts("digs2", plain.version, RULES.version)
    await releases.put(office.db, office.lane, KEYRING, parts)
    await service.active.refresh()
    await asyncio.gather(*(service.decide("digs2", submission(n), "ann") for n in range(20)))
    release = await releases.proposed(office, replace(parts, workflow_version=wider.version))
    await approved(site, release)
    await canary.start(office, release.release_id, actor="ann", plan=HALF)
    await service.active.refresh()
    before = service.active.get("digs2").policy.features_plan.history.context_columns
    answers = await asyncio.gather(
        *(service.decide("digs2", submission(n), "ann") for n in range(20, 60))
    )
    assert {a["policy_hash"] for a in answers} == {parts.hash, release.policy_hash}
    rows = await office.db.pool.fetch(
        "SELECT ticket_id, context FROM tickets WHERE workflow = 'digs2' ORDER BY as_of"
    )
    contexts = {row["ticket_id"]: orjson.loads(row["context"]) for row in rows}
    assert set(contexts["t0"]) == set(before)
    more = set(contexts["t30"]) - set(before)
    assert len(more) == 1
    for n in range(20, 60):  # all digs of the town are of this week
        context = contexts[f"t{n}"]
        assert context[more.copy().pop()] == context[before[0]] > 0
    report = await replay(reading.pairs(office.db, "digs2"), service.library)
    assert dict(report.counts) == {Cause.IDENTICAL: 60}


async def test_a_canary_needs_an_approval_by_somebody_else(site: Site) -> None:
    release = await site.candidate()
    await releases.tell(site.office, release, Event.SHADOW_STARTED)
    await releases.gated(site.office, release, Stage.CANARY)
    with pytest.raises(NotApproved):
        await canary.start(site.office, release.release_id, actor="ann", plan=PLAN)
    await approve(site.office, release.release_id, Stage.CANARY, approver="bob")
    with pytest.raises(NotApproved):
        await canary.start(site.office, release.release_id, actor="bob", plan=PLAN)
    await canary.start(site.office, release.release_id, actor="ann", plan=PLAN)
    assert await canary.share_of(site.office, await get(site.office.db, release.release_id)) == 20


async def test_a_canary_that_does_well_is_stepped_and_finishes(
    site: Site, service: DecisionService
) -> None:
    office = site.office
    release = await started(site, service, 20)
    assert await canary.control(office, PLAN) == []  # too few tickets
    await submit(service, range(100))
    (moved,) = await canary.control(office, PLAN)
    assert moved.state is State.CANARY
    await service.active.refresh()
    await canary.hold(office, release.release_id, actor="ann", reason="lunch")
    await submit(service, range(100, 200))
    assert await canary.control(office, PLAN) == []  # held
    await canary.step(office, release.release_id, actor="ann", plan=PLAN, percent=50)
    await submit(service, range(200, 300))
    (moved,) = await canary.control(office, PLAN)
    assert moved.state is State.READY
    assert await canary.share_of(office, moved) == 50
    told = [(e.kind, e.actor) for e in await events_of(office.db, release.release_id)]
    assert told[-5:] == [
        (Event.CANARY_STARTED, "ann"),
        (Event.CANARY_STEP, "ann"),
        (Event.CANARY_HELD, "ann"),
        (Event.CANARY_STEP, "ann"),
        (Event.CANARY_FINISHED, "system"),
    ]


async def test_a_share_grows_when_its_step_is_over_or_for_a_reason(
    site: Site, service: DecisionService
) -> None:
    office = site.office
    hours = replace(
        PLAN, steps=(CanaryStep(20, timedelta(hours=2), 5), CanaryStep(50, timedelta(0), 5))
    )
    ann: dict[str, Any] = {"actor": "ann", "plan": hours}
    release = await approved(site, await site.candidate())
    release_id = release.release_id
    await canary.start(office, release_id, percent=5, **ann)
    assert await canary.control(office, hours) == []  # below the first step: its hours, too
    for early in (None, " "):
        with pytest.raises(canary.StepNotOver) as caught:
            await canary.step(office, release_id, early=early, **ann)
        assert caught.value.fields["tickets_left"] == 5
        assert 1.9 < caught.value.fields["hours_left"] <= 2
    await canary.step(office, release_id, percent=3, **ann)  # less is always possible
    await canary.hold(office, release_id, actor="ann", reason="lunch")
    await service.active.refresh()
    await submit(service, range(400))
    held = await canary.status(office, await get(office.db, release_id), hours)
    gone_on = await canary.step(office, release_id, **ann)
    told = await canary.status(office, gone_on, hours)
    assert (told.release.state, told.percent) == (State.CANARY, 3)
    assert told.step.since == held.step.since  # being held cost it nothing
    assert told.step.tickets == held.step.tickets > 5
    assert told.step.tickets_left == 0 < told.step.hours_left
    await canary.step(office, release_id, early="quiet night", **ann)
    last = (await events_of(office.db, release_id))[-1]
    assert (last.detail["percent"], last.detail["early"]) == (20, "quiet night")


async def test_a_canary_held_at_its_last_share_goes_on(
    site: Site, service: DecisionService
) -> None:
    office = site.office
    ann: dict[str, Any] = {"actor": "ann", "plan": PLAN}
    release = await started(site, service, 20)
    await canary.step(office, release.release_id, early="test", **ann)
    await canary.hold(office, release.release_id, actor="ann", reason="lunch")
    await service.active.refresh()
    await submit(service, range(100))
    moved = await canary.step(office, release.release_id, **ann)
    assert (moved.state, await canary.share_of(office, moved)) == (State.CANARY, 50)
    with pytest.raises(canary.NoFurtherStep):
        await canary.step(office, release.release_id, **ann)
    (moved,) = await canary.control(office, PLAN)
    assert moved.state is State.READY


async def test_a_canary_skips_no_step_and_decides_everything_only_as_a_promotion_would(
    site: Site, service: DecisionService
) -> None:
    office = site.office
    ann: dict[str, Any] = {"actor": "ann", "plan": PLAN}
    release = await approved(site, await site.candidate())
    release_id = release.release_id
    for percent, error in ((21, canary.StepSkipped), (51, canary.NoFurtherStep)):
        with pytest.raises(error):
            await canary.start(office, release_id, percent=percent, **ann)
    with pytest.raises(canary.NoFurtherStep):
        await canary.start(office, release_id, percent=100, **ann)
    await canary.start(office, release_id, percent=5, **ann)
    with pytest.raises(canary.StepSkipped) as caught:
        await canary.step(office, release_id, percent=50, **ann)
    assert caught.value.fields == {"percent": 50, "most": 20}
    for percent in (20, 50):
        await canary.step(office, release_id, percent=percent, early="no tickets yet", **ann)
    await releases.gated(office, release, Stage.PROMOTION)
    await approve(office, release_id, Stage.PROMOTION, approver="bob")
    with pytest.raises(NotInThisState, match="cannot be given all tickets"):
        await canary.step(office, release_id, percent=100, **ann)
    await releases.tell(office, release, Event.CANARY_FINISHED, actor="system")
    await releases.gated(office, release, Stage.PROMOTION, is_passed=False)
    with pytest.raises(NotApproved):
        await canary.step(office, release_id, percent=100, **ann)
    await releases.gated(office, release, Stage.PROMOTION)
    await approve(office, release_id, Stage.PROMOTION, approver="bob")
    with pytest.raises(NotApproved):
        await canary.step(office, release_id, percent=100, actor="bob", plan=PLAN)
    switched = await canary.step(office, release_id, percent=100, **ann)
    assert switched.state is State.READY
    with pytest.raises(canary.NoFurtherStep):
        await canary.step(office, release_id, percent=100, **ann)
    await service.active.refresh()
    answers = await submit(service, range(20))
    assert {a["policy_hash"] for a in answers} == {release.policy_hash}
    await promote(office, release_id, author="ann", reason="it does well")
    await service.active.refresh()
    (answer,) = await submit(service, range(20, 21))
    assert answer["policy_hash"] == release.policy_hash
    assert service.active.get(NAME).canary is None


@pytest.mark.parametrize("way", ["stop", "demote", "guard"])
async def test_from_all_tickets_it_goes_back_at_once(
    site: Site, service: DecisionService, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("tiebreak.release.guards.BLOCK", timedelta(milliseconds=50))
    office = site.office
    rules = RULES.model_copy(update={"rules": RULES.rules[:1]})
    await into_production(site, await site.candidate(rules=rules))
    before = (await records.current(office.db, KEYRING))[NAME]
    assert isinstance(before, records.ReleaseRecord)
    await service.active.refresh()
    release = await started(site, service, 50, "fails" if way == "guard" else "sound")
    if way == "guard":  # what it did at half of the tickets is found when it has all
        for number in range(12):
            await submit(service, range(number * 20, number * 20 + 20))
            await asyncio.sleep(0.06)
        await settle(service)
    await through(site, release)
    await canary.switch(office, release.release_id, actor="ann")
    await service.active.refresh()
    assert service.active.get(NAME).canary is not None
    if way == "stop":
        await canary.stop(office, release.release_id, actor="bob", reason="test")
    elif way == "demote":
        record = await demote(office, NAME, Target.PREVIOUS, seq=before.seq, **WHY)
        assert record.policy_hash != before.policy_hash
    else:
        (moved,) = await canary.control(office, HALF)
        assert moved.state is State.STOPPED
    await service.active.refresh()
    assert service.active.get(NAME).canary is None
    now = (await records.current(office.db, KEYRING))[NAME]
    assert isinstance(now, records.ReleaseRecord)
    answers = await submit(service, range(500, 520))
    assert {a["policy_hash"] for a in answers} == {now.policy_hash} != {release.policy_hash}


@contextmanager
def candidates() -> Generator[subprocess.Popen[bytes]]:
    """The process that looks after canaries; killed in the end."""
    process = subprocess.Popen([sys.executable, "-m", "tiebreak.embedded.candidates"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def happened(site: Site, release: Release, last: Event) -> list[tuple[Event, str, object]]:
    """What happened to a canary once this has."""
    while True:
        told = await events_of(site.office.db, release.release_id)
        if told[-1].kind is last:
            return [(e.kind, e.actor, e.detail.get("percent")) for e in told[4:]]
        await asyncio.sleep(0.1)


@pytest.mark.timeout(240)
@pytest.mark.full
async def test_a_canary_goes_on_where_it_was_when_what_steps_it_was_killed(
    site: Site, service: DecisionService
) -> None:
    steps = tuple(PlannedStep(percent=p, hours=0, tickets=n) for p, n in ((20, 5), (50, 10)))
    site.workflow = SAMPLE.model_copy(update={"release": ReleasePlan(canary_steps=steps)})
    await into_production(site, await site.candidate(rules=RULES))  # by its plan others step
    fewer = RULES.model_copy(update={"rules": RULES.rules[:1]})
    release = await approved(site, await site.candidate(rules=fewer))
    await canary.start(site.office, release.release_id, actor="ann")
    await service.active.refresh()
    await submit(service, range(100))
    with candidates():
        stepped = await happened(site, release, Event.CANARY_STEP)
    await service.active.refresh()
    answers = await submit(service, range(100, 200))  # by the larger share, with nobody watching
    mine = [a for a in answers if a["policy_hash"] == release.policy_hash]
    assert 30 < len(mine) < 70
    assert await happened(site, release, Event.CANARY_STEP) == stepped
    with candidates():
        finished = await happened(site, release, Event.CANARY_FINISHED)
    assert finished == [
        (Event.CANARY_STARTED, "ann", 20),
        (Event.CANARY_STEP, "ann", 50),
        (Event.CANARY_FINISHED, "system", None),
    ]
    ready = await get(site.office.db, release.release_id)
    assert ready.state is State.READY
    assert await canary.share_of(site.office, ready) == 50


async def test_a_canary_that_does_harm_is_rolled_back_with_its_reason(
    site: Site, service: DecisionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiebreak.release.guards.BLOCK", timedelta(milliseconds=50))
    office = site.office
    release = await started(site, service, 50, "fails")
    plan = HALF
    for number in range(12):
        await submit(service, range(number * 20, number * 20 + 20))
        await asyncio.sleep(0.06)
    await settle(service)
    (moved,) = await canary.control(office, plan)
    assert moved.state is State.STOPPED
    assert await canary.share_of(office, moved) == 0
    last = (await events_of(office.db, release.release_id))[-1]
    assert (last.kind, last.actor) == (Event.CANARY_ROLLED_BACK, "system")
    assert last.detail["guard"]["name"] == "errors"
    assert last.detail["guard"]["canary"] == 1.0
    assert last.detail["guard"]["production"] == 0.0
    await service.active.refresh()
    assert service.active.get(NAME).canary is None
    assert await canary.control(office, plan) == []


async def test_a_shift_of_bands_is_found_beside_production_in_the_same_time(
    site: Site, service: DecisionService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiebreak.release.guards.BLOCK", timedelta(milliseconds=50))
    quiet = RuleSet()
    knobs = Knobs(audit_share=0).model_copy(
        update={
            "probability": Knobs().probability.model_copy(
                update={"medium": 0.97, "high": 0.98, "critical": 0.99}
            )
        }
    )
    site.workflow = SAMPLE.model_copy(update={"knobs": knobs})
    release = await started(site, service, 50, rules=quiet)
    for number in range(15):
        await submit(service, range(number * 20, number * 20 + 20))
        await asyncio.sleep(0.06)
    await settle(service)
    told = await canary.status(site.office, await get(site.office.db, release.release_id), PLAN)
    harm = {guard.name: guard.is_harm for guard in told.guards}
    assert harm == {
        **dict.fromkeys(("errors", "model_failures", "slow", "more_high", "missed"), False),
        "less_high": True,
    }


async def test_an_approval_that_expired_holds_the_canary(
    site: Site, service: DecisionService
) -> None:
    office = site.office
    release = await site.candidate()
    await releases.tell(office, release, Event.SHADOW_STARTED)
    await releases.gated(office, release, Stage.CANARY)
    lifetime = timedelta(seconds=1.5)
    await approve(office, release.release_id, Stage.CANARY, approver="bob", lifetime=lifetime)
    await canary.start(office, release.release_id, actor="ann", plan=PLAN)
    await service.active.refresh()
    await submit(service, range(100))
    await asyncio.sleep(1.6)
    (moved,) = await canary.control(office, PLAN)
    assert moved.state is State.HELD
    assert await canary.share_of(office, moved) == 20
