"""History on a real database: what a ticket is given equals what raw events say."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.databases import DatabaseUrls
from tests.store_samples import WORKFLOW, admit, record, ticket, told

from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import ticket_schema
from tiebreak.core.totals import Slot
from tiebreak.settings import Keyring
from tiebreak.store import starts
from tiebreak.store.admission import Admitted
from tiebreak.store.database import Database
from tiebreak.store.outcomes import Recorded

START = datetime(2027, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000
NUMBERS = itertools.count()

IDS = st.sampled_from(["A", "B", "C", "D"])
WHO = st.sampled_from([None, "bob", "eve"])
DEPTH = st.sampled_from([None, 3, 11, 40])

TICKET = st.tuples(IDS, WHO, WHO, DEPTH)
REPORT = st.tuples(
    IDS,
    st.sampled_from(["outcome", "closed", "acted"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, 5, 7]),
)
STEP = st.one_of(
    st.tuples(
        st.just("admit"),
        st.lists(TICKET, min_size=1, max_size=5),
        st.one_of(st.sampled_from([5, 10]), st.floats(0.01, 12)),
    ),
    st.tuples(st.just("record"), st.lists(REPORT, min_size=1, max_size=5), st.none()),
)

# The expressions of the sample workflow, once more, in plain Python.
HOLDS: dict[str | None, Callable[[dict[str, Any]], bool]] = {
    None: lambda v: True,
    "depth > 10": lambda v: v.get("depth") is not None and v["depth"] > 10,
    "damage": lambda v: v.get("damage") is True,
    "(cost) IS NOT NULL": lambda v: v.get("cost") is not None,
    "depth > 3": lambda v: v.get("depth") is not None and v["depth"] > 3,
    "soil = 'clay'": lambda v: v.get("soil") == "clay",
}
VALUES: dict[str, Callable[[dict[str, Any]], int | None]] = {
    "1": lambda v: 1,
    "known_at": lambda v: v["known_at"],
    "depth": lambda v: v.get("depth"),
    "cost": lambda v: v.get("cost"),
}


def owner(entity: str, values: dict[str, Any]) -> Any:
    """What identifies an entity of a ticket; None where it has none."""
    if entity == "spot":
        both = (values.get("place"), values.get("digger"))
        return None if None in both else both
    return values.get(entity)


@dataclass
class World:
    """Raw events, and the first revision of each ticket."""

    plan: HistoryPlan
    firsts: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: set[tuple[str, str]] = field(default_factory=set)
    events: list[tuple[int, str, dict[str, Any], bool, dict[str, Any]]] = field(
        default_factory=list
    )

    def happened(self, kind: str, ticket_id: str, at: int, values: dict[str, Any]) -> None:
        """Note an event on the entities of the ticket's first revision."""
        first = self.firsts[ticket_id]
        is_first = (ticket_id, kind) not in self.told
        self.told.add((ticket_id, kind))
        self.events.append((at, kind, first, is_first, values | {"known_at": at}))

    def context(self, values: dict[str, Any], as_of: int) -> dict[str, int]:
        """Every context column of a ticket, by looking at all events."""
        columns: dict[str, int] = {}
        for reading in self.plan.readings:
            for slot, column in zip(reading.slots, reading.columns, strict=True):
                entity = owner(slot.entity, values)
                if entity is None:
                    continue
                window = None if slot.how == "last" else reading.window_us
                found = self.of(slot, entity, as_of, window)
                if slot.how == "sum":
                    columns[column] = sum(found)
                elif found:
                    columns[column] = found[-1]
        return columns

    def of(self, slot: Slot, entity: Any, as_of: int, window: int | None) -> list[int]:
        """The values that count for a slot, oldest first."""
        found = []
        for at, kind, first, is_first, values in self.events:
            if kind != slot.on.value or owner(slot.entity, first) != entity or at >= as_of:
                continue
            if window is not None and at < as_of - window:
                continue
            if (slot.counts == "first" and not is_first) or not HOLDS[slot.where](values):
                continue
            value = VALUES[slot.value](values)
            if value is not None:
                found.append(value)
        return found


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


async def live(database: str, keyring: Keyring, steps: list[Any]) -> None:
    name = f"digs_{next(NUMBERS)}"
    world = World(HistoryPlan(WORKFLOW.model_copy(update={"name": name})))
    db = await Database.open(database, pool_size=2)
    try:
        lanes = [await Lane.open(db, "test", keyring) for _ in range(2)]
        clock = START
        for number, (what, members, days) in enumerate(steps):
            lane = lanes[number % 2]  # what one reads ahead the other adds to
            if what == "admit":
                clock += timedelta(days=days)
                await arrive(world, lane, keyring, members, clock)
            else:
                await tell(world, lane, keyring, members)
    finally:
        await db.close()


async def arrive(
    world: World, lane: Lane, keyring: Keyring, members: list[Any], clock: datetime
) -> None:
    given_values = [
        {k: v for k, v in zip(("digger", "place", "depth"), rest, strict=True) if v is not None}
        for _, *rest in members
    ]
    schema = ticket_schema(world.plan.workflow)
    if "soil" in schema.names:
        for member, values in zip(members, given_values, strict=True):
            values |= {"soil": "clay"} if member[3] == 11 else {}
    submissions = [
        ticket(m[0], schema=schema, **v) for m, v in zip(members, given_values, strict=True)
    ]
    admission = await admit(lane, keyring, *submissions, as_of=clock, plan=world.plan)
    assert admission.as_of == clock
    as_of = micros(clock)
    fresh: dict[int, int] = {}
    for i, result in enumerate(admission.results):
        if isinstance(result, Admitted):
            fresh.setdefault(result.index, i)
    for index, i in fresh.items():
        context = dict(admission.tickets[index].context)
        assert context == world.context(given_values[i], as_of)
        check(world.plan, context)
    for i in fresh.values():
        world.firsts.setdefault(members[i][0], given_values[i])
        world.happened("arrived", members[i][0], as_of, given_values[i])


async def tell(world: World, lane: Lane, keyring: Keyring, members: list[Any]) -> None:
    given_values = [
        {k: v for k, v in (("damage", damage), ("cost", cost)) if v is not None}
        for _, _, damage, cost in members
    ]
    reports = [told(m[0], m[1], **v) for m, v in zip(members, given_values, strict=True)]
    results = await record(lane, keyring, *reports, plan=world.plan)
    for (ticket_id, kind, *_), values, result in zip(members, given_values, results, strict=True):
        if isinstance(result, Recorded) and result.is_new:
            first = world.firsts[ticket_id]
            world.happened(kind, ticket_id, micros(result.known_at), first | values)


def check(plan: HistoryPlan, context: dict[str, int]) -> None:
    """Counts are never negative, of a rate's events never more hit than there are."""
    for reading in plan.readings:
        values = [context.get(column) for column in reading.columns]
        match reading.feature.aggregate:
            case "count":
                assert values[0] is None or values[0] >= 0
            case "rate" if values[0] is not None:
                assert 0 <= values[0] <= values[1]
            case "open" if values[0] is not None:
                assert 0 <= values[1] <= values[0]
            case _:
                pass


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEP, max_size=10), few=st.sampled_from([0, 2, starts.FEW]))
def test_context_equals_brute_force_over_raw_events(
    database_urls: DatabaseUrls,
    keyring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[Any],
    few: int,
) -> None:
    """However much of it is read ahead of the lock, and however much under it."""
    monkeypatch.setattr(starts, "FEW", few)
    asyncio.run(live(database_urls.app, keyring, steps))


GAPS_DAYS = [
    1e-4,
    1e-4,
    7e-4,
    5,
    10 - 7e-4,
    10 - 1e-4,
    10,
]  # begins of windows fall among earlier rows


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), few=st.sampled_from([0, 2]))
def test_what_is_read_ahead_of_the_lock_holds_however_time_goes(
    database_urls: DatabaseUrls,
    keyring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    few: int,
) -> None:
    """New tickets alone, in a long row: nearly all windows begin with totals read before."""
    monkeypatch.setattr(starts, "FEW", few)
    chance = random.Random(seed)
    steps = [
        (
            "admit",
            [
                (
                    f"N{number}-{i}",
                    *chance.choices([None, "bob", "eve"], k=2),
                    chance.choice([3, 40]),
                )
                for i in range(chance.randint(1, 3))
            ],
            chance.choice(GAPS_DAYS),
        )
        for number in range(60)
    ]
    asyncio.run(live(database_urls.app, keyring, steps))


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=6), min_size=2, max_size=4))
def test_time_only_grows_however_many_admit_at_once(
    database_urls: DatabaseUrls, keyring: Keyring, sizes: list[list[int]]
) -> None:
    """Sorted by `as_of`, every ticket sees exactly the arrivals of the batches before its own."""

    async def race() -> None:
        name = f"digs_{next(NUMBERS)}"
        plan = HistoryPlan(WORKFLOW.model_copy(update={"name": name}))
        db = await Database.open(database_urls.app, pool_size=len(sizes))
        numbers = itertools.count()
        batches: list[tuple[datetime, list[int]]] = []

        async def worker(mine: list[int]) -> None:
            lane = await Lane.open(db, "racer", keyring)
            last = START - timedelta(days=9999)
            for size in mine:
                members = [ticket(f"T{next(numbers)}", digger="bob") for _ in range(size)]
                admission = await admit(lane, keyring, *members, plan=plan)
                assert admission.as_of > last
                last = admission.as_of
                seen = [each.context for each in admission.tickets]
                batches.append((last, [context[column] for context in seen]))

        column = next(r for r in plan.readings if r.feature.name == "digs").columns[0]
        await asyncio.gather(*(worker(mine) for mine in sizes))
        await db.close()
        batches.sort()
        assert len({as_of for as_of, _ in batches}) == len(batches)
        arrived = 0
        for _, counts in batches:
            assert counts == [arrived] * len(counts)
            arrived += len(counts)

    asyncio.run(race())
