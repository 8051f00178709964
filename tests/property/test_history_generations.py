"""Generations of history on a real database: policies old and new get what raw events say."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import releases
from tests.databases import DatabaseUrls
from tests.property.test_store_histories import NUMBERS, START, STEP, World, arrive, micros, tell
from tests.store_samples import WORKFLOW, feature

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.policy import PolicyParts
from tiebreak.core.stored import StoredTicket, columns
from tiebreak.core.tickets import ticket_schema
from tiebreak.core.workflow import Entity, EventKind, Field, FieldType, RuleSet, Workflow
from tiebreak.ingest import builds
from tiebreak.ingest.rebuild import rebuild
from tiebreak.settings import Keyring
from tiebreak.store.contexts import complete
from tiebreak.store.database import Database
from tiebreak.store.kept import kept
from tiebreak.workflows import versions

NEXT = WORKFLOW.model_copy(
    update={
        "fields": (*WORKFLOW.fields, Field(name="soil", type=FieldType.TEXT)),
        "entities": (*WORKFLOW.entities, Entity(name="spot", key=("place", "digger"))),
        "features": (
            feature("digs", "count"),  # both versions read it
            feature("not_shallow", "open", where="depth > 3"),
            feature("cost_sum", "sum", on=EventKind.OUTCOME, value="cost", counts="current"),
            feature("last_cost", "last", on=EventKind.OUTCOME, value="cost"),
            feature("spot_5d", "count", entity="spot", window_days=5),
            feature("spot_since", "time_since", entity="spot"),
            feature("clay", "count", where="soil = 'clay'"),
        ),
    }
)
STEPS = st.lists(STEP, max_size=6)


class KilledError(Exception):
    """The process is gone."""


async def prepare(lane: Lane, name: str) -> tuple[Workflow, Workflow]:
    """Two versions of a workflow, the first of them in production."""
    first, second = (each.model_copy(update={"name": name}) for each in (WORKFLOW, NEXT))
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    for workflow in (first, second):
        await versions.load(lane, workflow, RuleSet(), author="ann", reason="test")
    return first, second


async def install(
    db: Database, lane: Lane, keyring: Keyring, workflow: Workflow, generation: int
) -> None:
    parts = PolicyParts(
        workflow.name, workflow.version, RuleSet().version, history_generation=generation
    )
    await releases.put(db, lane, keyring, parts)


async def live(
    database: str, keyring: Keyring, eras: list[list[Any]], kill_after: int | None
) -> None:
    name = f"digs_{next(NUMBERS)}"
    db = await Database.open(database, pool_size=3)
    lane = await Lane.open(db, "tests", keyring)
    first, second = await prepare(lane, name)
    await install(db, lane, keyring, first, 1)
    old, new = HistoryPlan(first), HistoryPlan(second)
    world = World(old)
    clock = START

    async def steps(era: list[Any]) -> None:
        nonlocal clock
        for what, members, days in era:
            if what == "admit":
                clock += timedelta(days=days)
                await arrive(world, lane, keyring, members, clock)
            else:
                await tell(world, lane, keyring, members)

    units = 0

    def progress(_stage: str, _share: float) -> None:
        nonlocal units
        units += 1
        if units == kill_after:
            raise KilledError

    try:
        await steps(eras[0])
        try:
            await rebuild(db, lane, keyring, name, actor="ann", progress=progress)
        except KilledError:
            await steps(eras[1])
            await rebuild(db, lane, keyring, name, actor="ann")
        await steps(eras[2])  # the old policy goes on as if nothing had happened
        if not world.events:
            return
        await rebuild(db, lane, keyring, name, actor="ann")  # needed if there were no tickets
        await check_completed(db, keyring, world, new)
        assert not (await rebuild(db, lane, keyring, name, actor="ann")).added
        await install(db, lane, keyring, second, 2)
        world.plan = new
        await steps(eras[3])
        await install(db, lane, keyring, first, 2)
        world.plan = old
        await steps(eras[1])
    finally:
        await db.close()


async def check_completed(db: Database, keyring: Keyring, world: World, plan: HistoryPlan) -> None:
    """Every ticket admitted under the old policy can be given the new one's context."""
    schema = ticket_schema(plan.workflow)
    async with db.connection() as conn:
        rows = await conn.fetch("SELECT * FROM tickets WHERE workflow = $1", plan.workflow.name)
        tickets = [StoredTicket.from_row(row, schema) for row in rows]
        if not tickets:
            return
        frame, given_context = columns(tickets, schema, plan.context_columns)
        log = await kept(conn, plan.workflow.name, plan)
        context = await complete(conn, log, frame, given_context, keyring.entity_key)
    was, world.plan = world.plan, plan
    for each, row in zip(tickets, context.iter_rows(named=True), strict=True):
        known = {name: value for name, value in row.items() if value is not None}
        assert known == world.context(dict(each.values), micros(each.as_of))
    world.plan = was


@pytest.mark.timeout(600)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(eras=st.tuples(STEPS, STEPS, STEPS, STEPS), kill_after=st.sampled_from([None, 1, 2]))
def test_both_policies_get_what_raw_events_say_before_during_and_after(
    database_urls: DatabaseUrls,
    keyring: Keyring,
    eras: tuple[list[Any], ...],
    kill_after: int | None,
) -> None:
    small = patch.multiple(builds, EVENTS_A_UNIT=4)
    with small, patch("tiebreak.ingest.rebuild.FEW_EVENTS", 2):
        asyncio.run(live(database_urls.app, keyring, list(eras), kill_after))
