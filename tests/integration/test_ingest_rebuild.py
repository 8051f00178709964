"""Rebuilding history: what is refused, what is left out, and what goes on meanwhile."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest
from tests import releases
from tests.databases import DatabaseUrls, fetch
from tests.store_samples import NAME, WORKFLOW, admit, decide, feature, record, ticket, told

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import PolicyParts
from tiebreak.core.tickets import ticket_schema
from tiebreak.core.workflow import Entity, EventKind, Field, FieldType, RuleSet, Workflow
from tiebreak.ingest import builds
from tiebreak.ingest.builds import RebuildOvertaken
from tiebreak.ingest.rebuild import RebuildReport, rebuild
from tiebreak.ingest.recorded import FieldChanged, Schemas
from tiebreak.registry.records import HistoryMoved
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.store.erasure import erase
from tiebreak.store.kept import EntityChanged
from tiebreak.workflows import versions

NEXT = WORKFLOW.model_copy(
    update={
        "features": (
            *WORKFLOW.features,
            feature("told", "count", on=EventKind.OUTCOME, counts="current"),
        )
    }
)
OLD, NEW = HistoryPlan(WORKFLOW), HistoryPlan(NEXT)
DIGS, TOLD = (
    next(r for r in NEW.readings if r.feature.name == name).columns[0] for name in ("digs", "told")
)


@pytest.fixture
async def lane(db: Database, keyring: Keyring) -> Lane:
    lane = await Lane.open(db, "tests", keyring)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    await load(lane, WORKFLOW)
    await install(db, lane, keyring, WORKFLOW, 1)
    return lane


async def load(lane: Lane, workflow: Workflow) -> None:
    await versions.load(lane, workflow, RuleSet(), author="ann", reason="test")


async def install(
    db: Database, lane: Lane, keyring: Keyring, workflow: Workflow, generation: int
) -> None:
    parts = PolicyParts(NAME, workflow.version, RuleSet().version, history_generation=generation)
    await releases.put(db, lane, keyring, parts)


async def built(db: Database, lane: Lane, keyring: Keyring, **options: bool) -> RebuildReport:
    return await rebuild(db, lane, keyring, NAME, actor="ann", **options)


async def test_a_dry_run_builds_nothing(db: Database, lane: Lane, keyring: Keyring) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    await load(lane, NEXT)
    told = await built(db, lane, keyring, dry_run=True)
    assert (told.generation, len(told.added), told.dropped) == (1, 1, [])
    async with db.connection() as conn:
        assert await conn.fetchval("SELECT count(*) FROM history_builds") == 0
    assert (await built(db, lane, keyring)).generation == 2
    again = await built(db, lane, keyring)
    assert (again.generation, again.added) == (2, [])


async def test_what_an_erased_ticket_added_is_left_out_and_told(
    db: Database, lane: Lane, keyring: Keyring
) -> None:
    admission = await admit(lane, keyring, ticket("A", digger="bob"), ticket("B", digger="bob"))
    await decide(lane, *admission.tickets)
    await record(lane, keyring, told("A", damage=True), told("B", damage=True), told("A", "acted"))
    async with lane.unit() as unit:
        await erase(unit, NAME, "A", actor="ann", reason="test")
    await load(lane, NEXT)
    assert (await built(db, lane, keyring, dry_run=True)).erased == 2
    report = await built(db, lane, keyring)
    assert (report.events, report.erased) == (2, 2)
    (context,) = [
        t.context for t in (await admit(lane, keyring, ticket("C", digger="bob"))).tickets
    ]
    assert context[DIGS] == 1
    later = await admit(lane, keyring, ticket("D", digger="bob"), plan=NEW)
    assert later.tickets[0].context[TOLD] == 1


async def test_the_old_policy_is_served_while_history_is_built(
    db: Database, lane: Lane, keyring: Keyring
) -> None:
    """Of tickets that come one after the other each sees all before it, and none is lost."""
    for number in range(30):
        await admit(lane, keyring, ticket(f"T{number}", digger="bob"))
    await load(lane, NEXT)
    serving = await Lane.open(db, "serving", keyring)
    seen: list[int] = []

    async def serve() -> None:
        while not done.is_set() or len(seen) < 60:
            number = 30 + len(seen)
            admission = await admit(serving, keyring, ticket(f"T{number}", digger="bob"))
            seen.append(admission.tickets[0].context[DIGS])
            await record(serving, keyring, told(f"T{number}", damage=True))

    done = asyncio.Event()
    server = asyncio.create_task(serve())
    with (
        patch.object(builds, "EVENTS_A_UNIT", 5),
        patch("tiebreak.ingest.rebuild.FEW_EVENTS", 20),
    ):
        assert (await built(db, lane, keyring)).generation == 2
    done.set()
    await server
    assert seen == list(range(30, 30 + len(seen)))
    last = await admit(lane, keyring, ticket("last", digger="bob"), plan=NEW)
    assert last.tickets[0].context[DIGS] == 30 + len(seen)
    assert last.tickets[0].context[TOLD] == len(seen)


async def test_an_entity_by_another_key_and_a_field_of_another_type_are_refused(
    db: Database, lane: Lane, keyring: Keyring
) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    entities = (Entity(name="digger", key=("place",)), *WORKFLOW.entities[1:])
    await load(lane, NEXT.model_copy(update={"entities": entities}))
    with pytest.raises(EntityChanged):
        await built(db, lane, keyring)
    fields = (*WORKFLOW.fields[:-1], Field(name="depth", type=FieldType.NUMBER))
    await load(lane, NEXT.model_copy(update={"fields": fields}))
    with pytest.raises(FieldChanged):
        await built(db, lane, keyring)


async def test_two_rebuilds_do_not_mix(db: Database, lane: Lane, keyring: Keyring) -> None:
    await admit(lane, keyring, *(ticket(f"T{i}", digger="bob") for i in range(4)))
    await load(lane, NEXT)
    builder = builds.Builder(lane, keyring, Schemas.of([WORKFLOW, NEXT]), "ann")
    whole = OLD.keeping(NEW.strand.only({TOLD.partition("@")[0]}))
    one, other = [await builder.begin(whole, 1) for _ in range(2)]
    assert one == other
    async with db.connection() as conn:
        last = await conn.fetchval("SELECT last_as_of FROM workflow_clocks")
    assert (await builder.go_on(one, last)).events == 4
    with pytest.raises(RebuildOvertaken):
        await builder.go_on(other, last)
    report = await built(db, lane, keyring)
    assert (report.generation, report.events) == (2, 4)


async def test_fields_that_production_lacks_are_read_from_what_is_stored(
    db: Database, lane: Lane, keyring: Keyring
) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    soil = Field(name="soil", type=FieldType.TEXT)
    clay = feature("clay", "count", where="soil = 'clay'")
    second = NEXT.model_copy(
        update={"fields": (*NEXT.fields, soil), "features": (*NEXT.features, clay)}
    )
    await load(lane, second)
    await built(db, lane, keyring)
    await install(db, lane, keyring, second, 2)
    schema = ticket_schema(second)
    plan = HistoryPlan(second)
    arrival = ticket("B", digger="bob", soil="clay", schema=schema)
    await admit(lane, keyring, arrival, plan=plan)
    await install(db, lane, keyring, WORKFLOW, 2)
    more = (*second.features, feature("no_clay", "count", where="soil <> 'clay'"))
    third = second.model_copy(update={"features": more})
    await load(lane, third)
    await built(db, lane, keyring)
    last = await admit(lane, keyring, ticket("C", digger="bob"), plan=HistoryPlan(third))
    column = next(r for r in plan.readings if r.feature.name == "clay").columns[0]
    assert last.tickets[0].context[column] == 1


async def test_a_policy_is_not_installed_on_a_generation_that_went(
    db: Database, lane: Lane, keyring: Keyring
) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    await load(lane, NEXT)
    await built(db, lane, keyring)
    with pytest.raises(HistoryMoved):
        await install(db, lane, keyring, WORKFLOW, 1)
    await install(db, lane, keyring, NEXT, 2)


async def test_a_generation_that_lacks_what_production_reads_now_does_not_take_over(
    db: Database, lane: Lane, keyring: Keyring
) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    await load(lane, NEXT)
    await built(db, lane, keyring)
    third = WORKFLOW.model_copy(
        update={"features": (feature("sum_all", "sum", value="depth * 2"),)}
    )
    await load(lane, third)
    go_on = builds.Builder.finish

    async def late(builder: builds.Builder, *arguments: object) -> object:
        await install(db, lane, keyring, NEXT, 2)
        return await go_on(builder, *arguments)  # type: ignore[arg-type]

    with patch.object(builds.Builder, "finish", late), pytest.raises(RebuildOvertaken):
        await built(db, lane, keyring)
    assert (await built(db, lane, keyring)).generation == 4


async def test_the_journal_tells_of_a_rebuild(
    db: Database, lane: Lane, keyring: Keyring, database_urls: DatabaseUrls
) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    await load(lane, NEXT)
    await built(db, lane, keyring)
    rows = await fetch(database_urls.admin, "SELECT action FROM system_audit ORDER BY at")
    actions = [row["action"] for row in rows]
    assert actions[-2:] == ["history.rebuild_begun", "history.rebuilt"]
