"""Versions in a real database: immutable, numbered, and each knob remembers who set it and why."""

from __future__ import annotations

import asyncio

import asyncpg
import orjson
import pytest
from sqlalchemy import select
from tests.databases import DatabaseUrls, execute

from tiebreak.audit.lanes import Lane
from tiebreak.core.workflow import Cuts, Field, FieldType, Knobs, Rule, RuleSet, Workflow
from tiebreak.settings import Keyring
from tiebreak.store.addresses import AlteredVersion
from tiebreak.store.database import Database
from tiebreak.store.tables import audit_seals, system_audit
from tiebreak.workflows import versions

HOLES = Workflow(
    name="holes",
    title="Holes",
    time="opened_at",
    fields=(Field(name="opened_at", type=FieldType.TIMESTAMP, required=True),),
)
RULES = RuleSet(rules=(Rule(id="any", when="TRUE", effect="points", points=1, message="Any."),))
HIGHER = HOLES.model_copy(
    update={"knobs": Knobs(points=Cuts(medium=20, high=60, critical=80), audit_share=0.05)}
)


@pytest.fixture
async def lane(db: Database, keyring: Keyring) -> Lane:
    return await Lane.open(db, "tests", keyring)


async def load(lane: Lane, workflow: Workflow, rules: RuleSet = RULES) -> versions.Loaded:
    return await versions.load(lane, workflow, rules, author="ann", reason=f"{workflow.title}!")


async def test_a_loaded_workflow_comes_back_as_it_was(db: Database, lane: Lane) -> None:
    loaded = await load(lane, HOLES)
    assert loaded.is_new
    assert loaded.version.ordinal == 1
    stored = await versions.latest(db, "holes")
    assert (stored.workflow, stored.rules) == (HOLES, RULES)
    assert stored.version == loaded.version
    assert stored.version.workflow_version == HOLES.version
    assert stored == await versions.get(db, "holes", 1)


async def test_identical_content_is_the_same_version(db: Database, lane: Lane) -> None:
    first = await load(lane, HOLES)
    again = await load(lane, HOLES)
    assert not again.is_new
    assert again.version == first.version
    assert len(await versions.versions_of(db, "holes")) == 1
    assert len(await versions.knob_history(db, "holes", "points.high")) == 1
    async with db.read() as connection:
        assert len((await connection.execute(select(system_audit))).all()) == 1
        assert len((await connection.execute(select(audit_seals))).all()) == 1


async def test_only_changed_knobs_get_a_new_value(db: Database, lane: Lane) -> None:
    first = await load(lane, HOLES)
    assert set(first.changed_knobs) == set(versions.knob_values(Knobs()))
    other_rules = await load(lane, HOLES, RuleSet())
    assert (other_rules.is_new, other_rules.changed_knobs) == (True, ())
    third = await load(lane, HIGHER.model_copy(update={"title": "Higher"}))
    assert set(third.changed_knobs) == {"points.high", "audit_share"}
    history = await versions.knob_history(db, "holes", "points.high")
    assert [(c.ordinal, c.value, c.author, c.reason) for c in history] == [
        (3, 60, "ann", "Higher!"),
        (1, 50, "ann", "Holes!"),
    ]


async def test_going_back_is_a_new_version(db: Database, lane: Lane) -> None:
    for workflow in (HOLES, HIGHER, HOLES):
        assert (await load(lane, workflow)).is_new
    listed = await versions.versions_of(db, "holes")
    assert [v.ordinal for v in listed] == [3, 2, 1]
    assert listed[0].workflow_version == listed[2].workflow_version
    history = await versions.knob_history(db, "holes", "audit_share")
    assert [c.value for c in history] == [0.01, 0.05, 0.01]


async def test_loading_is_journaled_and_sealed(db: Database, lane: Lane) -> None:
    await load(lane, HOLES)
    await load(lane, HIGHER)
    async with db.read() as connection:
        rows = (await connection.execute(select(system_audit).order_by(system_audit.c.at))).all()
        seals = (await connection.execute(select(audit_seals).order_by(audit_seals.c.seq))).all()
    assert [(r.actor, r.action, r.subject) for r in rows] == [
        ("ann", "workflow.loaded", "holes")
    ] * 2
    detail = orjson.loads(rows[1].detail)
    assert detail["changed_knobs"] == ["points.high", "audit_share"]
    assert detail["workflow_version"] == HIGHER.version
    assert [len(seal.leaves) // 32 for seal in seals] == [1 + 11 + 1, 1 + 2 + 1]


async def test_loads_at_the_same_moment_make_one_version_each(
    db: Database, keyring: Keyring
) -> None:
    lanes = [await Lane.open(db, f"tests {i}", keyring) for i in range(4)]
    loaded = await asyncio.gather(*(load(lane, HOLES) for lane in lanes))
    assert sorted(each.is_new for each in loaded) == [False, False, False, True]
    assert len(await versions.versions_of(db, "holes")) == 1


async def test_every_workflow_is_listed_once(db: Database, lane: Lane) -> None:
    await load(lane, HOLES)
    await load(lane, HIGHER)
    await load(lane, HOLES.model_copy(update={"name": "lamps"}))
    listed = await versions.newest_versions(db)
    assert [(v.workflow, v.ordinal) for v in listed] == [("holes", 2), ("lamps", 1)]


async def test_what_is_not_there(db: Database, lane: Lane) -> None:
    await load(lane, HOLES)
    with pytest.raises(versions.UnknownWorkflow, match="did you mean `holes`"):
        await versions.latest(db, "hole")
    with pytest.raises(versions.UnknownWorkflow, match="no such version of `holes`"):
        await versions.get(db, "holes", 2)


async def test_a_reason_is_needed(lane: Lane) -> None:
    with pytest.raises(versions.ReasonMissing):
        await versions.load(lane, HOLES, RULES, author="ann", reason="  ")


async def test_the_app_role_cannot_change_a_version(db: Database, lane: Lane) -> None:
    await load(lane, HOLES)
    for statement in ("UPDATE workflow_versions SET reason = 'x'", "DELETE FROM knob_history"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.pool.execute(statement)


async def test_an_altered_version_is_not_used(
    db: Database, lane: Lane, database_urls: DatabaseUrls
) -> None:
    await load(lane, HOLES)
    await execute(
        database_urls.admin,
        "SET session_replication_role = replica",
        "UPDATE workflow_versions SET config = replace(config, 'Holes', 'Hales')",
    )
    with pytest.raises(AlteredVersion):
        await versions.latest(db, "holes")
