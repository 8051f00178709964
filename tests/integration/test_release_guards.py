"""What the database refuses whoever writes releases past the code, as the application's role."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import asyncpg
import orjson
import pytest
from tests import releases
from tests.databases import DatabaseUrls, execute, run
from tests.keys import KEYRING
from tests.store_samples import NAME, WORKFLOW

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.registry import records
from tiebreak.registry.records import SameAuthorAndApprover
from tiebreak.release import releases as ways
from tiebreak.release.approvals import approve
from tiebreak.release.demotion import Target, demote
from tiebreak.release.promotion import promote
from tiebreak.release.states import TRANSITIONS, VOIDING, Kind, Stage
from tiebreak.store.database import Database
from tiebreak.workflows import versions

SEAL = {"salt": b"salt", "lane": uuid.UUID(int=1), "seal_seq": 1, "seal_position": 0}
NOW = datetime.now(UTC)
Row = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A policy in production, one approved for it, and others that are not."""

    urls: DatabaseUrls
    policies: dict[str, PolicyParts]
    approved: uuid.UUID  # author ann, approver bob, for promotion
    draft: uuid.UUID
    tried: uuid.UUID  # in shadow, passed its gates, approved by nobody
    canary: uuid.UUID  # approved by bob as a canary
    passed: uuid.UUID  # the evaluation of `approved`
    failed: uuid.UUID
    others: uuid.UUID  # the evaluation of `tried`


async def build(urls: DatabaseUrls) -> Scene:
    db = await Database.open(urls.app, pool_size=3)
    lane = await Lane.open(db, "tests", KEYRING)
    async with lane.unit() as unit:
        for person in ("ann", "bob", "cat"):
            await ensure_person(unit, person, actor="tests")
    policies: dict[str, PolicyParts] = {}
    names = ("now", "next", "never", "trial", "canary")
    for number, name in enumerate(names):
        version = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=number / 100)})
        await versions.load(lane, version, RuleSet(), author="ann", reason="test")
        policies[name] = PolicyParts(NAME, version.version, RuleSet().version)
    other = WORKFLOW.model_copy(update={"name": "others"})
    await versions.load(lane, other, RuleSet(), author="ann", reason="test")
    policies["other"] = PolicyParts("others", other.version, RuleSet().version)
    policies["modelled"] = replace(policies["now"], bundle_digest="d" * 64)
    async with lane.unit() as unit:
        for parts in policies.values():
            await records.store_policy(unit, parts, author="ann")
    office = releases.office_of(db, lane, KEYRING)
    await releases.put(db, lane, KEYRING, policies["now"])
    approved = await releases.proposed(office, policies["next"])
    await releases.tell(office, approved, Kind.SHADOW_STARTED)
    failed = await releases.gated(office, approved, Stage.CANARY, is_passed=False)
    passed = await releases.gated(office, approved)
    await approve(office, approved.release_id, Stage.PROMOTION, approver="bob")
    draft = await releases.proposed(office, policies["never"])
    tried = await releases.proposed(office, policies["trial"])
    await releases.tell(office, tried, Kind.SHADOW_STARTED)
    others = await releases.gated(office, tried)
    canary = await releases.proposed(office, policies["canary"])
    await releases.tell(office, canary, Kind.SHADOW_STARTED)
    await releases.gated(office, canary, Stage.CANARY)
    await approve(office, canary.release_id, Stage.CANARY, approver="bob")
    await db.close()
    ids = (each.release_id for each in (approved, draft, tried, canary))
    evaluations = (each.evaluation_id for each in (passed, failed, others))
    return Scene(urls, policies, *ids, *evaluations)


@pytest.fixture(scope="module")
def scene(module_database_urls: DatabaseUrls) -> Scene:
    return run(build(module_database_urls))


@pytest.fixture
async def app(scene: Scene) -> AsyncGenerator[asyncpg.Connection]:
    """The application's role in a transaction that comes to nothing."""
    connection = await asyncpg.connect(scene.urls.app)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def insert(app: asyncpg.Connection, table: str, row: Row) -> None:
    row = {**row, **SEAL}
    values = ", ".join(f"${i + 1}" for i in range(len(row)))
    await app.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})", *row.values())


async def refused(app: asyncpg.Connection, table: str, row: Row) -> None:
    with pytest.raises(
        (
            asyncpg.InsufficientPrivilegeError,
            asyncpg.IntegrityConstraintViolationError,
            asyncpg.InvalidTextRepresentationError,
        )
    ):
        async with app.transaction():
            await insert(app, table, row)


def record(scene: Scene, **more: Any) -> Row:
    """The record that promotes what is approved."""
    policy = scene.policies[more.pop("policy", "next")]
    return {
        "workflow": NAME,
        "seq": 2,
        "policy_hash": policy.hash,
        "bundle_digest": policy.bundle_digest,
        "author": "ann",
        "approver": "bob",
        "reason": "test",
        "created_at": NOW,
        "mac": b"",
        "kind": "promote",
        "release_id": scene.approved,
        **more,
    }


def approval(scene: Scene, **more: Any) -> Row:
    """A second approval of what is approved."""
    return {
        "evaluation_id": scene.passed,
        "approver": "cat",
        "release_id": scene.approved,
        "stage": "promotion",
        "policy_hash": scene.policies[more.pop("policy", "next")].hash,
        "production_seq": 1,
        "given_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
        "note": "",
        **more,
    }


def evaluation(scene: Scene, **more: Any) -> Row:
    return {
        "evaluation_id": uuid.uuid4(),
        "release_id": scene.approved,
        "policy_hash": scene.policies[more.pop("policy", "next")].hash,
        "production_seq": 1,
        "stage": "promotion",
        "evaluated_at": NOW + timedelta(minutes=5),
        "is_passed": True,
        "results": "{}",
        **more,
    }


def event(scene: Scene, kind: str, **more: Any) -> Row:
    values = {"release_id": scene.approved, "seq": 6, "actor": "eve", "at": NOW}
    values["detail"] = '{"reason": "test"}'
    return {**values, "kind": kind, **more}


def told(row: Row) -> str:
    """What the event says of an evaluation."""
    return orjson.dumps({"evaluation": str(row["evaluation_id"])}).decode()


def canary(scene: Scene, **more: Any) -> Row:
    """The record that lets what is approved as a canary decide."""
    return {
        "workflow": NAME,
        "seq": 1,
        "release_id": scene.canary,
        "policy_hash": scene.policies[more.pop("policy", "canary")].hash,
        "bundle_digest": None,
        "production_seq": 1,
        "percent": 5,
        "author": "ann",
        "created_at": NOW,
        "mac": b"",
        **more,
    }


def release(scene: Scene, **more: Any) -> Row:
    return {
        "release_id": uuid.uuid4(),
        "workflow": NAME,
        "policy_hash": scene.policies[more.pop("policy", "never")].hash,
        "base_seq": 1,
        "backtest_id": "b" * 64,
        "author": "ann",
        "reason": "test",
        "created_at": NOW,
        **more,
    }


BACK: Row = {"release_id": None, "policy": "never"}

RECORDS: dict[str, Row] = {
    "without a kind, as before": {"kind": None},
    "of a kind that there is not": {"kind": "force"},
    "installed over another": {"kind": "install", "release_id": None},
    "installed with a release": {"kind": "install"},
    "without an approver": {"approver": None},
    "approved by its author": {"approver": "ann"},
    "approved by who promotes it": {"author": "bob"},
    "approved by the release's author": {"author": "cat", "approver": "ann"},
    "approved by somebody who did not": {"approver": "cat"},
    "approved by nobody known": {"approver": "eve"},
    "by nobody known": {"author": "eve"},
    "without a release": {"release_id": None},
    "by a release of another policy": {"policy": "never"},
    "of a policy that is not stored": {"policy_hash": "0" * 64},
    "with another bundle": {"bundle_digest": "d" * 64},
    "in another workflow": {"workflow": "others", "seq": 1},
    "of another workflow": {"policy": "other"},
    "in place of what is there": {"seq": 1},
    "further on": {"seq": 3},
    "rolled back to what never was": {**BACK, "kind": "rollback"},
    "rolled back without an approver": {
        **BACK,
        "kind": "rollback",
        "policy": "now",
        "approver": None,
    },
    "demoted to what never was": {**BACK, "kind": "demote", "approver": None},
    "demoted to a model that never was": {
        **BACK,
        "kind": "demote",
        "approver": None,
        "policy": "modelled",
    },
    "rolled back by the word of nobody": {**BACK, "kind": "rollback", "policy": "now"},
    "without a reason": {"reason": ""},
    "for a blank reason": {"reason": " \n"},
    "demoted by a release": {"kind": "demote", "approver": None},
    "demoted by two": {**BACK, "kind": "demote"},
}


async def test_what_is_in_order_is_taken(scene: Scene, app: asyncpg.Connection) -> None:
    """So that what is refused below is refused for what is wrong with it."""
    await insert(app, "releases", release(scene))
    await insert(app, "gate_evaluations", evaluation(scene, release_id=scene.tried, policy="trial"))
    await insert(app, "release_approvals", approval(scene))
    await insert(app, "canary_records", canary(scene))
    await insert(app, "release_records", record(scene))
    await insert(app, "release_events", event(scene, "promoted"))


@pytest.mark.parametrize("wrong", RECORDS.values(), ids=RECORDS)
async def test_no_record_goes_around_two_persons(
    scene: Scene, app: asyncpg.Connection, wrong: Row
) -> None:
    await refused(app, "release_records", record(scene, **wrong))


async def test_no_release_is_promoted_that_nobody_approved(
    scene: Scene, app: asyncpg.Connection
) -> None:
    for release_id, policy in ((scene.tried, "trial"), (scene.draft, "never")):
        await refused(app, "release_records", record(scene, release_id=release_id, policy=policy))
    await refused(app, "release_records", record(scene, release_id=scene.canary, policy="canary"))


async def test_an_expired_approval_does_not_count(scene: Scene, app: asyncpg.Connection) -> None:
    row = approval(
        scene,
        evaluation_id=scene.others,
        release_id=scene.tried,
        policy="trial",
        expires_at=NOW - timedelta(seconds=1),
    )
    await insert(app, "release_approvals", row)
    await refused(
        app,
        "release_records",
        record(scene, release_id=scene.tried, policy="trial", approver="cat"),
    )


async def test_what_was_withdrawn_is_not_promoted(scene: Scene, app: asyncpg.Connection) -> None:
    await insert(app, "release_events", event(scene, "withdrawn"))
    await refused(app, "release_records", record(scene))


APPROVALS: dict[str, Row] = {
    "by the author": {"approver": "ann"},
    "by nobody known": {"approver": "eve"},
    "twice": {"approver": "bob"},
    "of another policy": {"policy": "never"},
    "against another production": {"production_seq": 2},
    "against no production": {"production_seq": 0},
    "of another release": {"release_id": "tried"},
    "by what the gates said of another": {"evaluation_id": "others"},
    "by gates that failed": {"evaluation_id": "failed", "stage": "canary"},
    "by gates of another stage": {"stage": "canary"},
    "by gates that were never asked": {"evaluation_id": "approved"},
    "for no stage": {"stage": "all"},
    "for ever": {"expires_at": NOW + timedelta(days=366)},
}


@pytest.mark.parametrize("wrong", APPROVALS.values(), ids=APPROVALS)
async def test_no_approval_without_gates_and_another_person(
    scene: Scene, app: asyncpg.Connection, wrong: Row
) -> None:
    ids = ("release_id", "evaluation_id")
    wrong = {k: getattr(scene, v) if k in ids else v for k, v in wrong.items()}
    await refused(app, "release_approvals", approval(scene, **wrong))


async def test_gates_that_failed_since_void_what_they_said_before(
    scene: Scene, app: asyncpg.Connection
) -> None:
    failed = evaluation(scene, is_passed=False)
    await insert(app, "gate_evaluations", failed)
    await insert(app, "release_events", event(scene, "gated", detail=told(failed)))
    await refused(app, "release_approvals", approval(scene))
    await refused(app, "release_records", record(scene))
    again = event(scene, "gated", seq=7, detail=told({"evaluation_id": scene.passed}))
    await refused(app, "release_events", again)


@pytest.mark.parametrize("kind", sorted(VOIDING))
@pytest.mark.parametrize("stage", Stage)
async def test_no_approval_outlives_bad_news(
    scene: Scene, app: asyncpg.Connection, kind: Kind, stage: Stage
) -> None:
    """Whatever the times say that its writer gives."""
    mine = {"release_id": scene.canary}
    given: Row = {}
    if stage is Stage.PROMOTION:
        passed = evaluation(scene, **mine, policy="canary")
        await insert(app, "gate_evaluations", passed)
        await insert(
            app, "release_events", event(scene, "gated", **mine, seq=5, detail=told(passed))
        )
        given = approval(scene, **mine, policy="canary", evaluation_id=passed["evaluation_id"])
        await insert(app, "release_approvals", given)
    seq = await app.fetchval(
        "SELECT max(seq) FROM release_events WHERE release_id = $1", scene.canary
    )
    kinds = [kind.value, "shadow_started"]
    if kind is Kind.CANARY_ROLLED_BACK:
        await insert(app, "canary_records", canary(scene))
        kinds = ["canary_started", *kinds]
    for number, each in enumerate(kinds, seq + 1):
        if each == kind and kind is Kind.CANARY_ROLLED_BACK:
            await insert(app, "canary_records", canary(scene, seq=2, percent=0))
        old = NOW - timedelta(days=9)
        await insert(app, "release_events", event(scene, each, **mine, seq=number, at=old))
    if stage is Stage.PROMOTION:
        wanted = record(scene, **mine, policy="canary", approver="cat")
        await refused(app, "release_records", wanted)
        await refused(app, "release_approvals", {**given, "approver": "bob"})
    else:
        number = await app.fetchval("SELECT coalesce(max(seq), 0) + 1 FROM canary_records")
        await refused(app, "canary_records", canary(scene, seq=number))


EVALUATIONS: dict[str, Row] = {
    "of another policy": {"policy": "never"},
    "against another production": {"production_seq": 2},
    "of what was never in shadow": {"release_id": "draft", "policy": "never"},
    "of no release": {"release_id": "passed"},
    "before no stage": {"stage": "all"},
}


@pytest.mark.parametrize("wrong", EVALUATIONS.values(), ids=EVALUATIONS)
async def test_gates_speak_of_what_is_there(
    scene: Scene, app: asyncpg.Connection, wrong: Row
) -> None:
    wrong = {k: getattr(scene, v) if k == "release_id" else v for k, v in wrong.items()}
    await refused(app, "gate_evaluations", evaluation(scene, **wrong))


EVENTS: dict[str, Row] = {
    "production without a record": {"kind": "promoted"},
    "out of production while not in it": {"kind": "retired"},
    "a beginning in the middle": {"kind": "proposed"},
    "a canary without a share": {"kind": "canary_started"},
    "a step of no canary": {"kind": "canary_step"},
    "a switch to no canary": {"kind": "canary_switched"},
    "anything": {"kind": "blessed"},
    "the newest again": {"kind": "withdrawn", "seq": 5},
    "one left out": {"kind": "withdrawn", "seq": 7},
    "of no release": {"kind": "proposed", "seq": 1, "release_id": uuid.UUID(int=1)},
    "an end without a reason": {"kind": "withdrawn", "detail": "{}"},
    "an end for a blank reason": {"kind": "shadow_stopped", "detail": '{"reason": " "}'},
    "gates that nobody asked": {"kind": "gated"},
    "what is no event": {"kind": "gated", "detail": "yes"},
}


@pytest.mark.parametrize("wrong", EVENTS.values(), ids=EVENTS)
async def test_nothing_is_told_that_did_not_happen(
    scene: Scene, app: asyncpg.Connection, wrong: Row
) -> None:
    await refused(app, "release_events", event(scene, **wrong))


CANARIES: dict[str, Row] = {
    "approved for promotion only": {"release_id": "approved", "policy": "next"},
    "approved by nobody": {"release_id": "tried", "policy": "trial"},
    "by who approved it": {"author": "bob"},
    "by nobody known": {"author": "eve"},
    "of another policy": {"policy": "next"},
    "with another bundle": {"bundle_digest": "d" * 64},
    "in another workflow": {"workflow": "others"},
    "beside another production": {"production_seq": 2},
    "of more than all": {"percent": 101},
    "of more than half": {"percent": 51},
    "of all tickets before its steps": {"percent": 100},
    "of less than none": {"percent": -1},
    "further on": {"seq": 2},
}


@pytest.mark.parametrize("wrong", CANARIES.values(), ids=CANARIES)
async def test_no_canary_without_two_persons(
    scene: Scene, app: asyncpg.Connection, wrong: Row
) -> None:
    wrong = {k: getattr(scene, v) if k == "release_id" else v for k, v in wrong.items()}
    await refused(app, "canary_records", canary(scene, **wrong))


async def test_a_canary_has_all_tickets_by_what_a_promotion_asks_for(
    scene: Scene, app: asyncpg.Connection
) -> None:
    mine: Row = {"release_id": scene.canary}
    whole = canary(scene, seq=2, percent=100)
    await insert(app, "canary_records", canary(scene))
    await refused(app, "canary_records", whole)
    await insert(app, "release_events", event(scene, "canary_started", **mine, seq=5))
    await insert(app, "release_events", event(scene, "canary_finished", **mine, seq=6))
    await refused(app, "canary_records", canary(scene, seq=2, percent=50))
    await refused(app, "canary_records", whole)  # approved as a canary alone
    passed = evaluation(scene, **mine, policy="canary")
    await insert(app, "gate_evaluations", passed)
    await insert(app, "release_events", event(scene, "gated", **mine, seq=7, detail=told(passed)))
    given = approval(scene, **mine, policy="canary", evaluation_id=passed["evaluation_id"])
    await insert(app, "release_approvals", given)
    await refused(app, "canary_records", {**whole, "author": "cat"})
    await refused(app, "release_events", event(scene, "canary_switched", **mine, seq=8))
    await insert(app, "canary_records", whole)
    await insert(app, "release_events", event(scene, "canary_switched", **mine, seq=8))
    assert await app.fetchval("SELECT release_state($1)", scene.canary) == "ready"


async def test_a_canary_that_decides_is_stopped_before_its_release_ends(
    scene: Scene, app: asyncpg.Connection
) -> None:
    await insert(app, "canary_records", canary(scene))
    end = event(scene, "withdrawn", release_id=scene.canary, seq=5)
    await refused(app, "release_events", end)
    await insert(app, "canary_records", canary(scene, seq=2, percent=0, author="eve"))
    await insert(app, "release_events", end)
    await refused(app, "canary_records", canary(scene, seq=3))


RELEASES: dict[str, Row] = {
    "compared with what is to come": {"base_seq": 2},
    "compared with nothing": {"base_seq": 0},
    "of another workflow": {"policy": "other"},
    "in another workflow": {"workflow": "others", "base_seq": 0},
    "without a backtest": {"backtest_id": ""},
    "of a policy that is not stored": {"policy_hash": "0" * 64},
    "by nobody known": {"author": "eve"},
    "without a reason": {"reason": " "},
}


@pytest.mark.parametrize("wrong", RELEASES.values(), ids=RELEASES)
async def test_nothing_is_proposed_beside_production(
    scene: Scene, app: asyncpg.Connection, wrong: Row
) -> None:
    await refused(app, "releases", release(scene, **wrong))


async def test_temporary_tables_do_not_stand_in(scene: Scene, app: asyncpg.Connection) -> None:
    """Where an administrator lets the application's role make some."""
    await execute(scene.urls.admin, f"GRANT TEMP ON DATABASE {scene.urls.name} TO tiebreak_app")
    for table in ("release_approvals", "release_records", "release_events"):
        await app.execute(f"CREATE TEMP TABLE {table} (LIKE public.{table})")
    now = record(scene, seq=1, policy="now")
    await insert(app, "pg_temp.release_records", now)
    trial: Row = {"release_id": scene.tried, "policy": "trial"}
    forged = approval(scene, **trial, evaluation_id=scene.others)
    await insert(app, "pg_temp.release_approvals", forged)
    wrong = record(scene, **trial, approver="cat")
    await refused(app, "public.release_records", wrong)
    await insert(app, "public.release_records", record(scene))


async def test_nobody_countersigns_what_is_their_own_or_no_demotion(
    database_urls: DatabaseUrls,
) -> None:
    scene = await build(database_urls)
    db = await Database.open(database_urls.app, pool_size=3)
    office = releases.office_of(db, await Lane.open(db, "tests", KEYRING), KEYRING)
    await promote(office, scene.approved, author="ann", reason="test")
    await demote(office, NAME, Target.PREVIOUS, seq=2, author="ann", reason="test")
    app = await asyncpg.connect(database_urls.app)
    signature = {"workflow": NAME, "seq": 3, "signer": "bob", "at": NOW, "note": ""}
    for wrong in ({"signer": "ann"}, {"signer": "eve"}, {"seq": 1}, {"seq": 2}, {"seq": 4}):
        await refused(app, "release_countersignatures", {**signature, **wrong})
    await insert(app, "release_countersignatures", signature)
    await refused(app, "release_countersignatures", signature | {"signer": "cat"})
    await refused(app, "release_records", record(scene, seq=4))  # production moved: it is void
    await refused(app, "release_approvals", approval(scene))
    await refused(app, "canary_records", canary(scene))
    await app.close()
    await db.close()


async def test_the_database_knows_the_same_transitions(app: asyncpg.Connection) -> None:
    rows = await app.fetch("SELECT * FROM release_transitions()")
    found = {row["kind"]: (set(row["allowed"]), row["becomes"]) for row in rows}
    assert found == {
        kind.value: ({s.value for s in t.allowed}, t.becomes) for kind, t in TRANSITIONS.items()
    }


# --- in transactions that do not see what others committed -----------------------------------


@pytest.mark.parametrize("level", ["repeatable_read", "serializable"])
async def test_releases_are_written_in_transactions_that_see_what_others_committed(
    database_urls: DatabaseUrls, level: Literal["repeatable_read", "serializable"]
) -> None:
    scene = await build(database_urls)
    app = await asyncpg.connect(database_urls.app)
    transaction = app.transaction(isolation=level)
    await transaction.start()
    await app.fetchval("SELECT count(*) FROM releases")
    db = await Database.open(database_urls.app, pool_size=2)
    office = releases.office_of(db, await Lane.open(db, "tests", KEYRING), KEYRING)
    await ways.withdraw(office, scene.approved, actor="ann", reason="it is bad")
    for table, row in (
        ("release_records", record(scene)),
        ("release_approvals", approval(scene)),
        ("release_events", event(scene, "promoted")),
        ("canary_records", canary(scene)),
        ("gate_evaluations", evaluation(scene)),
        ("releases", release(scene)),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="does not see"):
            async with app.transaction():
                await insert(app, table, row)
    await transaction.rollback()
    await app.close()
    await db.close()


# --- who is an author -------------------------------------------------------------------------


async def test_nobody_approves_what_they_made(database_urls: DatabaseUrls) -> None:
    """Ann proposes the policy that bob stored first, of a version that dan loaded."""
    await build(database_urls)
    db = await Database.open(database_urls.app, pool_size=3)
    lane = await Lane.open(db, "tests", KEYRING)
    version = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.5)})
    parts = PolicyParts(NAME, version.version, RuleSet().version)
    async with lane.unit() as unit:
        await ensure_person(unit, "dan", actor="tests")
    await versions.load(lane, version, RuleSet(), author="dan", reason="test")
    async with lane.unit() as unit:
        await records.store_policy(unit, parts, author="bob")
    office = releases.office_of(db, lane, KEYRING)
    made = await releases.proposed(office, parts, author="ann")
    await releases.tell(office, made, Kind.SHADOW_STARTED)
    passed = await releases.gated(office, made)
    row: Row = {"evaluation_id": passed.evaluation_id, "release_id": made.release_id}
    row |= {"stage": "promotion", "policy_hash": parts.hash, "production_seq": 1, "note": ""}
    row |= {"given_at": NOW, "expires_at": datetime.now(UTC) + timedelta(hours=1)}
    app = await asyncpg.connect(database_urls.app)
    for person in ("ann", "bob", "dan"):
        with pytest.raises(SameAuthorAndApprover, match=person):
            await approve(office, made.release_id, Stage.PROMOTION, approver=person)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="an author approves"):
            await insert(app, "release_approvals", row | {"approver": person})
    await approve(office, made.release_id, Stage.PROMOTION, approver="cat")
    await app.close()
    await db.close()


async def test_who_trained_the_model_is_an_author_where_it_is_the_change(
    scene: Scene, app: asyncpg.Connection
) -> None:
    texts = ("parameters", "metrics", "versions", "reason", "result")
    run: Row = {"run_id": uuid.uuid4(), "workflow": NAME, "bundle_digest": "d" * 64, "seed": 1}
    run |= {"workflow_version": scene.policies["now"].workflow_version, "author": "cat"}
    run |= {"started_at": NOW, "finished_at": NOW, **dict.fromkeys(texts, "")}
    await insert(app, "ml_training_runs", run)
    modelled = release(scene, policy="modelled")
    await insert(app, "releases", modelled)
    query = "SELECT is_release_author($1, $2)"
    found = {p: await app.fetchval(query, modelled["release_id"], p) for p in ("ann", "bob", "cat")}
    assert found == {"ann": True, "bob": False, "cat": True}
    assert not await app.fetchval(query, scene.approved, "cat")


# --- content under its address ----------------------------------------------------------------


async def test_versions_follow_each_other_and_fit_their_address(
    scene: Scene, app: asyncpg.Connection
) -> None:
    columns = "workflow, workflow_version, rules_version, config, rules, created_at, author, reason"
    query = f"SELECT {columns} FROM workflow_versions WHERE workflow_version = $1"
    row = dict(await app.fetchrow(query, scene.policies["now"].workflow_version) or {})
    newest = await app.fetchval(
        "SELECT max(ordinal) FROM workflow_versions WHERE workflow = $1", NAME
    )
    for wrong in (
        {"ordinal": -1},
        {"ordinal": 0},
        {"ordinal": newest},
        {"ordinal": newest + 2},
        {"rules": '{"rules":[] }'},
        {"config": row["config"].replace("0.0", "0.9")},
    ):
        await refused(app, "workflow_versions", {**row, "ordinal": newest + 1, **wrong})
    await insert(app, "workflow_versions", {**row, "ordinal": newest + 1})


async def test_policies_fit_their_hash(app: asyncpg.Connection) -> None:
    parts = PolicyParts(NAME, "1" * 64, "2" * 64, "d" * 64, 'a "word"', 7)
    for each in (parts, replace(parts, bundle_digest=None, tiebreak_version=None)):
        row = {"policy_hash": each.hash, **asdict(each), "author": "ann", "created_at": NOW}
        for name in asdict(each):
            value = 8 if name == "history_generation" else "x"
            await refused(app, "policies", {**row, name: value})
        await insert(app, "policies", row)
