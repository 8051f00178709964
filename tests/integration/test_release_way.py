"""The way of a release through the code: propose, gates, approval, promotion, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs
from tests import releases
from tests.databases import DatabaseUrls, execute
from tests.functional.serving import REPAIRS, RULES, prepare, settings_for
from tests.keys import KEYRING
from tests.store_samples import NAME, WORKFLOW

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.audit.verify import verify
from tiebreak.backtest.evidence import Backtest
from tiebreak.backtest.finished import UnsealedBacktest
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.core.policy import PolicyParts
from tiebreak.core.release_plan import Gates, ReleasePlan
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.decisions import service as serving_service
from tiebreak.decisions.listening import CHANNEL
from tiebreak.decisions.service import DecisionService
from tiebreak.embedded.candidates import Candidates
from tiebreak.errors import TiebreakError
from tiebreak.registry import canaries, records
from tiebreak.registry.policies import Recipe, UnknownVersion
from tiebreak.registry.proposals import ModelUnfit
from tiebreak.registry.records import (
    AlreadyInProduction,
    ForgedRelease,
    ProductionMoved,
    ReleaseRecord,
    SameAuthorAndApprover,
)
from tiebreak.release import canary, evaluations, events
from tiebreak.release import releases as ways
from tiebreak.release.approvals import (
    AlreadyApproved,
    ApprovalTooLong,
    ForgedEvidence,
    NotApproved,
    NotGated,
    approvals_of,
    approve,
)
from tiebreak.release.demotion import (
    AlreadyCountersigned,
    NoSuchDemotion,
    NothingBefore,
    OwnDemotion,
    Target,
    countersign,
    demote,
    note_overdue,
    overdue,
    unsigned,
)
from tiebreak.release.plans import InForce
from tiebreak.release.plans import in_force as in_force_of
from tiebreak.release.promotion import IsInProduction, NeverInProduction, promote, rollback
from tiebreak.release.states import Kind, NotInThisState, Stage, State
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.workflows import versions


@dataclass(frozen=True)
class Room:
    """An office, and policies of one workflow whose versions are stored; `a` is in production."""

    office: ways.Office
    urls: DatabaseUrls
    a: PolicyParts
    b: PolicyParts
    c: PolicyParts

    async def now(self) -> ReleaseRecord:
        found = (await records.current(self.office.db, KEYRING))[NAME]
        assert isinstance(found, ReleaseRecord)
        return found

    async def put(self, parts: PolicyParts) -> ReleaseRecord:
        return await releases.put(self.office.db, self.office.lane, KEYRING, parts)

    async def journal(self) -> list[tuple[str, str]]:
        rows = await self.office.db.pool.fetch("SELECT actor, action FROM system_audit ORDER BY at")
        return [(row["actor"], row["action"]) for row in rows]


async def proposal(office: ways.Office, parts: PolicyParts, backtest: Backtest) -> ways.Release:
    """Propose a policy whose versions are stored."""
    recipe = await office.library.recipe(parts)
    return await ways.propose(office, recipe, backtest, author="ann", reason="test")


@pytest.fixture
async def room(db: Database, database_urls: DatabaseUrls) -> Room:
    lane = await Lane.open(db, "tests", KEYRING)
    async with lane.unit() as unit:
        for person in ("ann", "bob", "cat"):
            await ensure_person(unit, person, actor="tests")
    policies = list[PolicyParts]()
    for number in range(3):
        version = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=number / 100)})
        await versions.load(lane, version, RuleSet(), author="ann", reason="test")
        policies.append(PolicyParts(NAME, version.version, RuleSet().version))
    found = Room(releases.office_of(db, lane, KEYRING), database_urls, *policies)
    await found.put(policies[0])
    return found


async def test_the_way_into_production_is_told_step_by_step(room: Room, tmp_path: Path) -> None:
    release = await releases.approved(room.office, room.b)
    assert release.state is State.SHADOW
    record = await promote(room.office, release.release_id, author="cat", reason="better")
    assert record == await room.now()
    assert (record.seq, record.kind, record.policy_hash) == (2, "promote", room.b.hash)
    assert (record.author, record.approver) == ("cat", "bob")
    assert record.release_id == release.release_id
    assert (await ways.get(room.office.db, release.release_id)).state is State.PRODUCTION
    told = await events.events_of(room.office.db, release.release_id)
    assert [event.kind for event in told] == [
        *("proposed", "shadow_started", "gated", "approved", "promoted")
    ]
    assert told[-1].detail["approver"] == "bob"
    actions = [action for _, action in await room.journal() if action.startswith(("rel", "prod"))]
    assert actions == [
        "release.installed",
        *(f"release.{event.kind}" for event in told),
        "production.promoted",
    ]
    assert (await verify(room.office.db, ArtifactStore(Folder(tmp_path)), KEYRING)).is_intact


async def test_a_backtest_is_of_exactly_this_policy_against_production(room: Room) -> None:
    office = room.office
    other = await releases.backtest_of(office, room.c)
    with pytest.raises(ways.BacktestOfAnother):
        await proposal(office, room.b, other)
    mine = await releases.backtest_of(office, room.b)
    assert ways.parts_of(mine) == room.b
    await room.put(room.c)
    with pytest.raises(ways.BacktestOfAnother, match="another policy than the one in production"):
        await proposal(office, room.b, mine)


async def test_a_backtest_that_nobody_ran_is_no_evidence(room: Room) -> None:
    """Whoever may write its folder can make a file whose id is the hash of what it says."""
    office = room.office
    forged = await releases.backtest_of(office, room.b, is_noted=False)
    with pytest.raises(UnsealedBacktest, match="No sealed entry") as caught:
        await proposal(office, room.b, forged)
    assert (caught.value.code, caught.value.fields["backtest"]) == ("unsealed_backtest", forged.id)
    assert "tiebreak backtest run" in caught.value.hint
    # Nor does an entry help that the application's password wrote.
    for detail in (f'{{"backtest": "{forged.id}"}}', "no JSON"):
        await office.db.pool.execute(_FORGED_ENTRY, f"{NAME}/{room.b.hash}", detail)
        with pytest.raises(UnsealedBacktest):
            await proposal(office, room.b, forged)
    assert await ways.releases(office.db, NAME) == []
    old = await releases.proposed(office, room.b)
    await room.put(room.c)
    forged = await releases.backtest_of(office, room.b, is_noted=False)
    with pytest.raises(UnsealedBacktest):
        await ways.rebase(office, old.release_id, forged, author="ann", reason="test")
    assert (await ways.get(office.db, old.release_id)).state is State.DRAFT


async def test_what_does_not_build_is_not_proposed(room: Room) -> None:
    for parts, error in (
        (replace(room.b, rules_version="0" * 64), UnknownVersion),
        (replace(room.b, bundle_digest="0" * 64), ModelUnfit),
    ):
        backtest = await releases.backtest_of(room.office, parts)
        with pytest.raises(error):
            await proposal(room.office, parts, backtest)


async def test_what_is_proposed_is_stored_with_it_and_steers_nothing_else(room: Room) -> None:
    office, db = room.office, room.office.db
    changed = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.5)})
    recipe = Recipe.of(changed, RuleSet(), room.a)
    other = await releases.backtest_of(office, room.b)
    with pytest.raises(ways.BacktestOfAnother):
        await ways.propose(office, recipe, other, author="ann", reason="test")
    assert len(await versions.versions_of(db, NAME)) == 3  # those of the room
    mine = await releases.backtest_of(office, recipe.parts)
    release = await ways.propose(office, recipe, mine, author="ann", reason="test")
    assert (await versions.get(db, NAME, 4)).workflow == changed
    assert (await versions.latest(db, NAME)).version.ordinal == 3
    with pytest.raises(versions.UnknownWorkflow, match="no such version") as absent:
        await versions.get(db, NAME, 99)
    assert absent.value.hint == "There are: 1, 2, 3, 4."
    await ways.withdraw(office, release.release_id, actor="ann", reason="test")
    assert (await versions.latest(db, NAME)).version.ordinal == 3
    # what a person loads, or what comes into production, is the latest
    loaded = await versions.load(office.lane, changed, RuleSet(), author="ann", reason="test")
    assert (loaded.is_new, loaded.version.ordinal) == (True, 5)
    again = await versions.load(office.lane, changed, RuleSet(), author="ann", reason="test")
    assert not again.is_new
    last = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.6)})
    recipe = Recipe.of(last, RuleSet(), room.a)
    mine = await releases.backtest_of(office, recipe.parts)
    await ways.propose(office, recipe, mine, author="ann", reason="test")
    assert (await versions.latest(db, NAME)).version.ordinal == 5
    await room.put(recipe.parts)
    assert (await versions.latest(db, NAME)).version.ordinal == 6


async def test_releases_are_found_by_their_first_digits(room: Room) -> None:
    db = room.office.db
    made = [await releases.proposed(room.office, parts) for parts in (room.b, room.c)]
    for release in made:
        assert await ways.find(db, str(release.release_id)[:13]) == release
    assert await ways.releases(db, NAME) == made[::-1] == await ways.releases(db)
    assert await ways.releases(db, "others") == []
    with pytest.raises(ways.NoSuchRelease):
        await ways.find(db, "zz")
    with pytest.raises(ways.AmbiguousRelease):
        await ways.find(db, "")


async def test_an_approval_needs_gates_and_another_person(room: Room) -> None:
    office = room.office
    release = await releases.proposed(office, room.b)
    await releases.tell(office, release, Kind.SHADOW_STARTED)

    async def approving(person: str, stage: Stage = Stage.PROMOTION, **more: Any) -> None:
        await approve(office, release.release_id, stage, approver=person, **more)

    with pytest.raises(NotGated):
        await approving("bob")
    await releases.gated(office, release, is_passed=False)
    with pytest.raises(NotGated):
        await approving("bob")
    await releases.gated(office, release)
    with pytest.raises(SameAuthorAndApprover):
        await approving("ann")
    with pytest.raises(NotGated):
        await approving("bob", Stage.CANARY)
    await approving("bob", note="well done")
    with pytest.raises(AlreadyApproved):
        await approving("bob")
    await approving("cat")
    assert {a.approver for a in await approvals_of(office.db, release.release_id)} == {"bob", "cat"}
    newest = await evaluations.newest(office.db, release.release_id, Stage.PROMOTION)
    assert newest is not None
    assert newest.results == {"all": True}


async def test_a_candidate_does_not_loosen_its_own_gates(room: Room) -> None:
    loose = ReleasePlan(gates=Gates(auc=None), approval_hours=700)
    version = WORKFLOW.model_copy(update={"release": loose})
    await versions.load(room.office.lane, version, RuleSet(), author="ann", reason="test")
    parts = replace(room.a, workflow_version=version.version)
    release = await releases.proposed(room.office, parts)
    assert await in_force_of(room.office, release) == InForce(
        ReleasePlan(), room.a.workflow_version
    )


async def test_an_approval_stands_as_long_as_production_says(room: Room) -> None:
    for hours in (24, 2):  # by default, and once a version that says so is in production
        release = await releases.proposed(room.office, room.c)
        await releases.tell(room.office, release, Kind.SHADOW_STARTED)
        await releases.gated(room.office, release)
        wanted = {"approver": "bob", "lifetime": timedelta(hours=hours, minutes=1)}
        with pytest.raises(ApprovalTooLong, match=f"At most {hours} hours"):
            await approve(room.office, release.release_id, Stage.PROMOTION, **wanted)
        given = await approve(room.office, release.release_id, Stage.PROMOTION, approver="bob")
        assert given.expires_at - given.given_at == timedelta(hours=hours)
        if hours == 24:
            plan = ReleasePlan(approval_hours=2)
            version = WORKFLOW.model_copy(update={"release": plan})
            await versions.load(room.office.lane, version, RuleSet(), author="ann", reason="test")
            await room.put(replace(room.a, workflow_version=version.version))


async def test_a_promotion_needs_an_approval_that_stands(room: Room) -> None:
    office = room.office
    release = await releases.proposed(office, room.b)
    with pytest.raises(NotInThisState):
        await promote(office, release.release_id, author="ann", reason="test")
    await releases.tell(office, release, Kind.SHADOW_STARTED)
    await releases.gated(office, release)
    with pytest.raises(NotApproved):
        await promote(office, release.release_id, author="ann", reason="test")
    lifetime = timedelta(milliseconds=1)
    await approve(office, release.release_id, Stage.PROMOTION, approver="bob", lifetime=lifetime)
    await asyncio.sleep(0.01)
    with pytest.raises(NotApproved):
        await promote(office, release.release_id, author="ann", reason="test")
    await releases.gated(office, release)  # an expired one is given again on new evidence
    await approve(office, release.release_id, Stage.PROMOTION, approver="bob")
    with pytest.raises(NotApproved):
        await promote(office, release.release_id, author="bob", reason="test")
    await promote(office, release.release_id, author="ann", reason="test")
    assert (await room.now()).policy_hash == room.b.hash


QUARANTINE = "Since the gates were asked: quarantined."


async def test_an_approval_does_not_outlive_bad_news(room: Room) -> None:
    """Nor do the gates that it was given on."""
    office = room.office
    release = await releases.approved(room.office, room.b)
    await releases.tell(office, release, Kind.QUARANTINED, Kind.SHADOW_STARTED)
    with pytest.raises(NotApproved, match=f"The approval by bob is void. {QUARANTINE}"):
        await promote(office, release.release_id, author="ann", reason="test")
    with pytest.raises(NotGated, match=QUARANTINE):
        await approve(office, release.release_id, Stage.PROMOTION, approver="cat")
    await releases.gated(office, release)
    await approve(office, release.release_id, Stage.PROMOTION, approver="cat")
    await releases.gated(office, release, is_passed=False)
    with pytest.raises(NotApproved, match=r"by cat is void.* asked again"):
        await promote(office, release.release_id, author="ann", reason="test")
    await releases.gated(office, release)
    await approve(office, release.release_id, Stage.PROMOTION, approver="cat")
    await promote(office, release.release_id, author="ann", reason="test")
    assert (await room.now()).policy_hash == room.b.hash


async def test_an_approval_does_not_outlive_its_canary(room: Room) -> None:
    office = room.office
    release = await approved_canary(room)
    await releases.gated(office, release)
    await approve(office, release.release_id, Stage.PROMOTION, approver="bob")
    await releases.share(office, release, 5, Kind.CANARY_STARTED)
    await canary.stop(office, release.release_id, actor="system", reason="more errors")
    await releases.tell(office, release, Kind.SHADOW_STARTED)
    with pytest.raises(NotApproved, match="canary rolled back"):
        await promote(office, release.release_id, author="ann", reason="test")
    with pytest.raises(NotApproved, match="canary rolled back"):
        await canary.start(office, release.release_id, actor="ann", percent=5)


@pytest.mark.parametrize("table", ["gate_evaluations", "release_approvals"])
async def test_forged_evidence_puts_nothing_into_production(room: Room, table: str) -> None:
    """Written past the code by somebody with every right but the seal key."""
    office = room.office
    release = await releases.approved(office, room.b)
    await alter(room.urls, f"UPDATE {table} SET salt = 'other'")
    with pytest.raises(ForgedEvidence):
        await promote(office, release.release_id, author="ann", reason="test")
    if table == "gate_evaluations":
        with pytest.raises(ForgedEvidence):
            await approve(office, release.release_id, Stage.PROMOTION, approver="cat")
    await releases.gated(office, release)
    await approve(office, release.release_id, Stage.PROMOTION, approver="cat")
    await promote(office, release.release_id, author="ann", reason="test")


async def test_when_production_moves_evidence_is_void_until_rebased(room: Room) -> None:
    office = room.office
    old = await releases.approved(office, room.b)
    backtest = await releases.backtest_of(office, room.b)
    with pytest.raises(ways.StillCurrent):
        await ways.rebase(office, old.release_id, backtest, author="ann", reason="test")
    await room.put(room.c)
    for what in (
        promote(office, old.release_id, author="ann", reason="test"),
        approve(office, old.release_id, Stage.PROMOTION, approver="cat"),
        releases.gated(office, old),
    ):
        with pytest.raises(ProductionMoved, match="void") as caught:
            await what
        assert "rebase" in caught.value.hint
    backtest = await releases.backtest_of(office, room.b)
    new = await ways.rebase(office, old.release_id, backtest, author="ann", reason="test")
    assert (new.base_seq, new.state, new.policy_hash) == (2, State.DRAFT, old.policy_hash)
    assert (await ways.get(office.db, old.release_id)).state is State.VOIDED
    with pytest.raises(NotInThisState):
        await ways.rebase(office, old.release_id, backtest, author="ann", reason="test")


async def test_of_promotions_at_once_one_wins(room: Room) -> None:
    offices = [
        replace(room.office, lane=await Lane.open(room.office.db, f"tests {i}", KEYRING))
        for i in range(4)
    ]
    ways_in = [await releases.approved(room.office, parts) for parts in (room.b, room.c)] * 2
    results = await asyncio.gather(
        *(
            promote(office, release.release_id, author="ann", reason="test")
            for office, release in zip(offices, ways_in, strict=True)
        ),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, ReleaseRecord)]
    lost = [result for result in results if isinstance(result, ProductionMoved)]
    assert (len(won), len(lost)) == (1, 3), results
    assert await room.now() == won[0]


async def test_of_first_installations_at_once_one_wins(room: Room) -> None:
    other = WORKFLOW.model_copy(update={"name": "others"})
    await versions.load(room.office.lane, other, RuleSet(), author="ann", reason="test")
    parts = PolicyParts("others", other.version, RuleSet().version)

    async def install(number: int) -> object:
        lane = await Lane.open(room.office.db, f"tests {number}", KEYRING)
        return await records.install(
            lane, KEYRING, parts, author="ann", approver="bob", reason="test"
        )

    results = await asyncio.gather(*map(install, range(3)), return_exceptions=True)
    assert sum(isinstance(result, ReleaseRecord) for result in results) == 1
    assert sum(isinstance(result, AlreadyInProduction) for result in results) == 2


async def test_going_back_takes_two_and_what_was_there(room: Room) -> None:
    office = room.office
    two: dict[str, Any] = {"author": "ann", "approver": "bob", "reason": "worse"}
    await room.put(room.b)
    release = (await room.now()).release_id
    assert release is not None
    await releases.proposed(office, room.c)
    for parts, seq, error in (
        (room.a, 1, ProductionMoved),
        (room.b, 2, IsInProduction),
        (room.c, 2, NeverInProduction),
    ):
        with pytest.raises(error):
            await rollback(office, NAME, parts.hash, seq=seq, **two)
    with pytest.raises(SameAuthorAndApprover):
        await rollback(office, NAME, room.a.hash, seq=2, **{**two, "approver": "ann"})
    back = await rollback(office, NAME, room.a.hash, seq=2, **two)
    assert (back.kind, back.policy_hash, back.release_id) == ("rollback", room.a.hash, None)
    assert (await ways.get(office.db, release)).state is State.RETIRED
    again = await rollback(office, NAME, room.b.hash, seq=3, **two)
    assert again.release_id == release
    assert (await ways.get(office.db, release)).state is State.PRODUCTION


async def test_what_a_demotion_took_out_comes_back_by_two_persons_alone(room: Room) -> None:
    office = room.office
    one: dict[str, Any] = {"author": "ann", "reason": "wrong"}
    two = {**one, "approver": "bob"}
    await room.put(room.b)
    await room.put(room.c)

    async def demoted(seq: int) -> str:
        return (await demote(office, NAME, Target.PREVIOUS, seq=seq, **one)).policy_hash

    assert [await demoted(3), await demoted(4)] == [room.b.hash, room.a.hash]
    await rollback(office, NAME, room.c.hash, seq=5, **two)
    assert await demoted(6) == room.a.hash  # past b, which was demoted
    await rollback(office, NAME, room.b.hash, seq=7, **two)
    await rollback(office, NAME, room.c.hash, seq=8, **two)
    assert await demoted(9) == room.b.hash  # two persons put it back


async def test_a_model_demoted_to_its_rules_does_not_come_back_by_one_person(room: Room) -> None:
    named = WORKFLOW.model_copy(update={"name": "others"})
    await versions.load(room.office.lane, named, RuleSet(), author="ann", reason="test")
    harmful = PolicyParts("others", named.version, RuleSet().version, "0" * 64)
    lane, one = room.office.lane, {"author": "ann", "reason": "wrong"}
    await records.install(lane, KEYRING, harmful, author="ann", approver="bob", reason="test")
    rules = await demote(room.office, "others", Target.RULES, seq=1, **one)
    with pytest.raises(NothingBefore):
        await demote(room.office, "others", Target.PREVIOUS, seq=2, **one)
    now = (await records.current(room.office.db, KEYRING))["others"]
    assert now == rules


async def test_a_demotion_is_one_persons_and_waits_for_a_second(room: Room) -> None:
    office = room.office
    one: dict[str, Any] = {"author": "ann", "reason": "wrong"}
    with pytest.raises(NothingBefore):
        await demote(office, NAME, Target.PREVIOUS, seq=1, **one)
    with pytest.raises(IsInProduction):
        await demote(office, NAME, Target.RULES, seq=1, **one)
    await room.put(room.b)
    await room.put(room.c)
    with pytest.raises(ProductionMoved):
        await demote(office, NAME, Target.PREVIOUS, seq=2, **one)
    for seq, parts in ((3, room.b), (4, room.a)):  # further back each time, never up again
        demoted = await demote(office, NAME, Target.PREVIOUS, seq=seq, **one)
        assert (demoted.kind, demoted.approver) == ("demote", None)
        assert (await room.now()).policy_hash == parts.hash
    waiting = await unsigned(office.db)
    assert [each.seq for each in waiting] == [4, 5]
    now = datetime.now(UTC)
    assert await overdue(office.db, now=now + timedelta(hours=23)) == []
    assert await overdue(office.db, now=now + timedelta(hours=25)) == waiting
    assert await note_overdue(office, now=now + timedelta(hours=23)) == []
    assert await note_overdue(office, now=now + timedelta(hours=25)) == waiting
    assert await note_overdue(office, now=now + timedelta(hours=26)) == []  # once
    late = ("system", "production.countersignature_overdue")
    assert (await room.journal()).count(late) == len(waiting)
    with pytest.raises(OwnDemotion):
        await countersign(office, NAME, 4, signer="ann")
    with pytest.raises(NoSuchDemotion):
        await countersign(office, NAME, 3, signer="bob")
    await countersign(office, NAME, 4, signer="bob", note="right")
    with pytest.raises(AlreadyCountersigned):
        await countersign(office, NAME, 4, signer="cat")
    assert [each.seq for each in await unsigned(office.db)] == [5]
    journal = await room.journal()
    assert ("bob", "production.countersigned") in journal
    assert journal.count(("ann", "production.demoted")) == 2


async def test_a_late_signature_is_told_in_the_log_once(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiebreak.release.demotion.DUE", timedelta(0))
    await room.put(room.b)
    await demote(room.office, NAME, Target.PREVIOUS, seq=2, author="ann", reason="wrong")
    candidates = Candidates(room.office.db, settings_for(room.urls, tmp_path), room.office)
    with capture_logs() as told:
        await candidates.guard()
        await candidates.guard()
    assert [(e["event"], e["log_level"], e["workflow"], e["seq"]) for e in told] == [
        ("countersignature_overdue", "error", NAME, 3)
    ]


async def test_rules_alone_are_there_whatever_history_serves(room: Room) -> None:
    """The model's policy names the generation before; its rules take the one that serves."""
    modelled = replace(room.a, bundle_digest="0" * 64)
    other = replace(modelled, workflow="others")
    named = WORKFLOW.model_copy(update={"name": "others"})
    await versions.load(room.office.lane, named, RuleSet(), author="ann", reason="test")
    other = replace(other, workflow_version=named.version)
    lane = room.office.lane
    await records.install(lane, KEYRING, other, author="ann", approver="bob", reason="test")
    clock = "INSERT INTO workflow_clocks VALUES ('others', now(), 2, now())"
    await execute(room.urls.app, clock)
    record = await demote(room.office, "others", Target.RULES, seq=1, author="ann", reason="test")
    assert record.bundle_digest is None
    assert (await room.office.library.parts(record.policy_hash)).history_generation == 2


async def forge(room: Room, **more: Any) -> None:
    """Write a record as the application's role does, without the seal key."""
    app = await asyncpg.connect(room.urls.app)
    seq = await app.fetchval("SELECT production_seq($1)", NAME) + 1
    row: dict[str, Any] = {"workflow": NAME, "seq": seq, "bundle_digest": None, "author": "ann"}
    row |= {"approver": None, "reason": "test", "created_at": datetime.now(UTC), "mac": b"none"}
    row |= {"kind": "demote", "release_id": None, "salt": b"s", "lane": UUID(int=1)}
    row |= {"seal_seq": 1, "seal_position": 0, **more}
    values = ", ".join(f"${i + 1}" for i in range(len(row)))
    query = f"INSERT INTO release_records ({', '.join(row)}) VALUES ({values})"
    await app.execute(query, *row.values())
    await app.close()
    assert isinstance((await records.current(room.office.db, KEYRING))[NAME], ForgedRelease)


async def test_what_a_forged_record_put_first_is_superseded_by_one_or_two(room: Room) -> None:
    office = room.office
    await room.put(room.b)
    release_id = (await room.now()).release_id
    assert release_id is not None
    other = await releases.approved(office, room.c)
    for policy, release in ((room.a, None), (room.b, release_id)):  # the one there before, too
        await forge(room, policy_hash=policy.hash, release_id=release)
    with pytest.raises(ForgedRelease):
        await proposal(office, room.c, await evidence(room))
    back = await demote(office, NAME, Target.PREVIOUS, seq=4, author="ann", reason="forged")
    assert back == await room.now()
    assert (back.policy_hash, back.release_id) == (room.b.hash, release_id)
    assert (await ways.get(office.db, release_id)).state is State.PRODUCTION

    await forge(room, policy_hash=room.a.hash)
    two: dict[str, Any] = {"author": "ann", "approver": "bob", "reason": "forged"}
    await rollback(office, NAME, room.b.hash, seq=6, **two)
    assert (await room.now()).policy_hash == room.b.hash
    assert (await ways.get(office.db, other.release_id)).is_open
    await room.put(room.c)  # releases go on
    assert (await ways.get(office.db, release_id)).state is State.RETIRED


async def evidence(room: Room) -> Backtest:
    """A backtest of what is proposed beside a forged record."""
    found = {"policy_hash": room.c.hash, "baseline": {"production": room.b.hash}}
    return Backtest("b" * 64, found, {})


async def test_a_forged_promotion_takes_nobodys_place(room: Room) -> None:
    """Its release is not in production, and the one before still is."""
    office = room.office
    await room.put(room.b)
    before = (await room.now()).release_id
    assert before is not None
    release = await releases.approved(office, room.c)
    promoted = {"kind": "promote", "release_id": release.release_id, "approver": "bob"}
    await forge(room, policy_hash=room.c.hash, **promoted)
    await demote(office, NAME, Target.PREVIOUS, seq=3, author="ann", reason="forged")
    assert (await room.now()).policy_hash == room.b.hash
    assert (await ways.get(office.db, before)).state is State.PRODUCTION
    assert (await ways.get(office.db, release.release_id)).state is State.SHADOW


async def test_rules_alone_supersede_a_forged_first_record(room: Room) -> None:
    await alter(room.urls, "UPDATE release_records SET mac = 'none'")
    with pytest.raises(NothingBefore):
        await demote(room.office, NAME, Target.PREVIOUS, seq=1, author="ann", reason="forged")
    await demote(room.office, NAME, Target.RULES, seq=1, author="ann", reason="forged")
    assert (await room.now()).policy_hash == room.a.hash


async def test_a_rollback_is_approved_on_record_by_no_author(room: Room) -> None:
    office = room.office
    await releases.put(office.db, office.lane, KEYRING, room.b, author="cat")
    await room.put(room.c)
    two: dict[str, Any] = {"seq": 3, "author": "ann", "reason": "worse"}
    with pytest.raises(SameAuthorAndApprover, match="The policy is by cat"):
        await rollback(office, NAME, room.b.hash, approver="cat", **two)
    await rollback(office, NAME, room.b.hash, approver="bob", **two)
    (row,) = await office.db.pool.fetch("SELECT * FROM rollback_approvals")
    assert (row["production_seq"], row["policy_hash"], row["approver"]) == (3, room.b.hash, "bob")
    assert ("bob", "production.rollback_approved") in await room.journal()


async def approved_canary(room: Room) -> ways.Release:
    release = await releases.proposed(room.office, room.b)
    await releases.tell(room.office, release, Kind.SHADOW_STARTED)
    await releases.gated(room.office, release, Stage.CANARY)
    await approve(room.office, release.release_id, Stage.CANARY, approver="bob")
    return release


async def test_a_canary_is_on_record_until_its_release_ends(room: Room) -> None:
    release = await approved_canary(room)
    canary = await releases.share(room.office, release, 5, Kind.CANARY_STARTED)
    assert await canaries.newest(room.office.db, KEYRING) == {NAME: canary}
    assert (canary.percent, canary.production_seq) == (5, 1)
    stepped = await releases.share(room.office, release, 25, Kind.CANARY_STEP)
    assert stepped.seq == 2
    withdrawn = await ways.withdraw(room.office, release.release_id, actor="ann", reason="test")
    assert withdrawn.state is State.WITHDRAWN
    found = (await canaries.newest(room.office.db, KEYRING))[NAME]
    assert isinstance(found, canaries.Canary)
    assert (found.seq, found.percent) == (3, 0)


async def test_what_replaces_production_ends_the_canary(room: Room) -> None:
    release = await approved_canary(room)
    await releases.share(room.office, release, 5, Kind.CANARY_STARTED)
    await room.put(room.c)
    found = (await canaries.newest(room.office.db, KEYRING))[NAME]
    assert isinstance(found, canaries.Canary)
    assert found.percent == 0


@pytest.mark.parametrize("change", ["percent = 50", "release_id = gen_random_uuid()"])
async def test_a_forged_canary_is_named(room: Room, change: str) -> None:
    release = await approved_canary(room)
    await releases.share(room.office, release, 5, Kind.CANARY_STARTED)
    await alter(room.urls, f"UPDATE canary_records SET {change}")
    found = (await canaries.newest(room.office.db, KEYRING))[NAME]
    assert isinstance(found, canaries.ForgedCanary)


@pytest.mark.parametrize(
    "change",
    ["kind = NULL", "kind = 'rollback'", "release_id = NULL", "approver = 'cat'", "seq = 7"],
)
async def test_a_forged_record_is_named(room: Room, change: str) -> None:
    await room.put(room.b)
    await alter(room.urls, f"UPDATE release_records SET {change} WHERE seq = 2")
    found = (await records.current(room.office.db, KEYRING))[NAME]
    assert isinstance(found, ForgedRelease)


async def alter(urls: DatabaseUrls, *statements: str) -> None:
    await execute(urls.admin, "SET session_replication_role = replica", *statements)


async def test_records_from_before_kinds_were_noted_are_believed(db: Database) -> None:
    """As version 0001 of the schema left them."""
    path = Path(__file__).parents[1] / "upgrades" / "0001.json"
    (row,) = orjson.loads(path.read_bytes())["release_records"]
    names = tables.release_records.columns.keys()
    stored = {name: row.get(name) for name in names}
    stored["created_at"] = datetime.fromisoformat(row["created_at"])
    stored["mac"] = bytes.fromhex(row["mac"].removeprefix("\\x"))
    record = records.checked(stored, KEYRING)
    assert isinstance(record, ReleaseRecord), record
    assert (record.kind, record.release_id) == ("install", None)
    assert isinstance(records.checked(stored | {"kind": "install"}, KEYRING), ForgedRelease)


# --- followed while serving -----------------------------------------------------------------

STRICT = REPAIRS.model_copy(update={"knobs": Knobs(audit_share=0.5)})


@pytest.fixture
async def service(
    database_urls: DatabaseUrls, keyring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[DecisionService]:
    """It looks once a minute, so what it learns in time it has heard."""
    monkeypatch.setattr(serving_service, "REFRESH_SECONDS", 60.0)
    await asyncio.to_thread(prepare, database_urls, keyring)
    found = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    yield found
    await found.drain()


async def listeners(urls: DatabaseUrls) -> list[int]:
    """The processes of connections that listen."""
    admin = await asyncpg.connect(urls.admin)
    rows = await admin.fetch(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE $1",
        f"LISTEN%{CHANNEL}%",
    )
    await admin.close()
    return [row["pid"] for row in rows]


async def until(condition: Any, seconds: float = 10) -> float:
    """Wait for it; how long it took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not await condition():
        assert loop.time() - begun < seconds, "never"
        await asyncio.sleep(0.005)
    return loop.time() - begun


async def in_force(service: DecisionService, policy_hash: str) -> float:
    async def is_followed() -> bool:
        return service.active.get("repairs").policy.hash == policy_hash

    return await until(is_followed)


async def test_a_demotion_is_heard_at_once_and_the_connection_comes_back(
    service: DecisionService, database_urls: DatabaseUrls
) -> None:
    db = service.db
    lane = await Lane.open(db, "tests", KEYRING)
    await versions.load(lane, STRICT, RULES, author="ann", reason="test")
    strict = PolicyParts(STRICT.name, STRICT.version, RULES.version)
    plain = service.active.get("repairs").policy.hash

    async def listens() -> bool:
        return bool(await listeners(database_urls))

    await until(listens)
    await releases.put(db, lane, KEYRING, strict)
    await in_force(service, strict.hash)
    office = releases.office_of(db, lane, KEYRING)
    await demote(office, "repairs", Target.PREVIOUS, seq=2, author="ann", reason="test")
    assert await in_force(service, plain) < 1

    (before,) = await listeners(database_urls)
    await execute(database_urls.admin, f"SELECT pg_terminate_backend({before})")
    assert service.active.get("repairs").policy.hash == plain  # deciding goes on

    async def listens_again() -> bool:
        return bool(set(await listeners(database_urls)) - {before})

    await until(listens_again)
    await releases.put(db, lane, KEYRING, strict)
    await in_force(service, strict.hash)


async def test_without_anything_heard_it_is_looked_for(
    database_urls: DatabaseUrls, keyring: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_db: Database) -> None:
        raise TiebreakError

    monkeypatch.setattr(Database, "connect", away)
    await asyncio.to_thread(prepare, database_urls, keyring)
    service = await DecisionService.start(settings_for(database_urls, tmp_path), keyring)
    try:
        lane = await Lane.open(service.db, "tests", KEYRING)
        await versions.load(lane, STRICT, RULES, author="ann", reason="test")
        strict = PolicyParts(STRICT.name, STRICT.version, RULES.version)
        await releases.put(service.db, lane, KEYRING, strict)
        assert await in_force(service, strict.hash) < 2
    finally:
        await service.drain()


# As if the seal of another entry were this one's.
_FORGED_ENTRY = """
    INSERT INTO system_audit (
        audit_id, at, actor, action, subject, detail, salt, lane, seal_seq, seal_position)
    SELECT gen_random_uuid(), now(), 'ann', 'backtest.finished', $1, $2, salt, lane, seal_seq,
        seal_position
    FROM system_audit LIMIT 1
"""
