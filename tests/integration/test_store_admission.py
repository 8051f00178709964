"""Admission, commit and reading on a real database."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from operator import attrgetter

import pytest
from tests.store_samples import (
    NAME,
    PLAN,
    TICKETS,
    admit,
    decide,
    decision_row,
    record,
    ticket,
    told,
)

from tiebreak.audit.lanes import Lane
from tiebreak.core.history import HistoryPlan
from tiebreak.core.stored import StoredTicket
from tiebreak.core.totals import HistoryOverflow
from tiebreak.settings import Keyring
from tiebreak.store import commit, reading
from tiebreak.store.admission import Admission, Admitted
from tiebreak.store.database import Database
from tiebreak.store.decision_ids import NotADecisionId
from tiebreak.store.history import ClockBehind
from tiebreak.store.kept import HistoryNotReady
from tiebreak.store.outcomes import OutcomeInFuture, Recorded, TicketUnknown
from tiebreak.store.revisions import Existing, RevisionConflict
from tiebreak.store.starts import Starts


@pytest.fixture
async def lane(db: Database, keyring: Keyring) -> Lane:
    return await Lane.open(db, "test", keyring)


def context(admission: Admission, row: int = 0) -> dict[str, int]:
    """The context by a readable part of each column: `digger.arrived.sum.first…@all`."""
    return dict(admission.tickets[row].context)


def column(feature: str, part: int = 0) -> str:
    reading_ = next(r for r in PLAN.readings if r.feature.name == feature)
    return reading_.columns[part]


async def test_a_new_ticket_is_admitted_with_its_context(lane: Lane, keyring: Keyring) -> None:
    first = await admit(lane, keyring, ticket("A", digger="bob", depth=12))
    assert first.results == [Admitted(1, 0)]
    assert context(first)[column("digs")] == 0
    assert column("last_depth") not in context(first)
    second = await admit(lane, keyring, ticket("B", digger="bob", depth=3))
    assert second.as_of > first.as_of
    assert context(second)[column("digs")] == 1
    assert context(second)[column("digs_10d")] == 1
    assert context(second)[column("deep_digs")] == 1
    assert context(second)[column("depth_sum")] == 12
    assert context(second)[column("last_depth")] == 12
    assert column("since_dig") not in context(second)


async def test_members_of_a_batch_do_not_see_each_other(lane: Lane, keyring: Keyring) -> None:
    batch = await admit(lane, keyring, *(ticket(f"T{i}", digger="bob") for i in range(5)))
    assert {context(batch, i)[column("digs")] for i in range(5)} == {0}
    after = await admit(lane, keyring, ticket("after", digger="bob"))
    assert context(after)[column("digs")] == 5


async def test_nothing_is_made_of_what_a_rolled_back_admission_booked(
    lane: Lane, keyring: Keyring, db: Database
) -> None:
    starts, rehearsal = Starts(), Lane.rehearsal(db, "test", keyring)
    await admit(lane, keyring, ticket("A", digger="bob", depth=12), starts=starts)
    booked = dict(starts.booked_us)
    await admit(rehearsal, keyring, ticket("B", digger="bob", depth=12), starts=starts)
    assert starts.booked_us.keys() == booked.keys()
    assert starts.booked_us != booked
    after = await admit(lane, keyring, ticket("C", digger="bob"), starts=starts)
    assert context(after)[column("digs")] == 1
    assert context(after)[column("depth_sum")] == 12


async def test_revisions(lane: Lane, keyring: Keyring) -> None:
    a, b = ticket("T", depth=1), ticket("T", depth=2)
    first = await admit(lane, keyring, a, a)
    assert first.results == [Admitted(1, 0), Admitted(1, 0)]
    assert len(first.tickets) == 1
    assert (await admit(lane, keyring, a)).results == [Existing(1, first.as_of)]
    second = await admit(lane, keyring, b, a, a, b)
    assert [r.revision for r in second.results] == [2, 3, 3, 4]
    assert [each.revision for each in second.tickets] == [2, 3, 4]
    same, other, gap = (
        ticket("T", 3, depth=1),
        ticket("T", 3, depth=9),
        ticket("T", 6, depth=9),
    )
    results = (await admit(lane, keyring, same, other, gap)).results
    assert results[0] == Existing(3, second.as_of)
    assert isinstance(results[1], RevisionConflict)
    assert isinstance(results[2], RevisionConflict)
    assert results[2].fields["latest"] == 4


async def test_a_correction_is_booked_on_the_first_revisions_entity(
    lane: Lane, keyring: Keyring
) -> None:
    await admit(lane, keyring, ticket("T", digger="bob"))
    corrected = await admit(lane, keyring, ticket("T", digger="eve"))
    assert context(corrected)[column("digs")] == 0
    await record(lane, keyring, told("T", "closed"))
    bob, eve = ticket("U", digger="bob"), ticket("V", digger="eve")
    seen = await admit(lane, keyring, bob, eve)
    assert context(seen, 0)[column("digs")] == 1
    assert context(seen, 0)[column("corrected")] == 2
    assert context(seen, 0)[column("open_digs", 0)] == 1
    assert context(seen, 0)[column("open_digs", 1)] == 1
    assert context(seen, 1)[column("digs")] == 0
    assert context(seen, 1)[column("open_digs", 1)] == 0


async def test_a_correction_in_the_batch_of_its_first_revision(
    lane: Lane, keyring: Keyring
) -> None:
    await admit(lane, keyring, ticket("T", digger="bob"), ticket("T", digger="eve"))
    seen = await admit(lane, keyring, ticket("U", digger="bob"), ticket("V", digger="eve"))
    assert context(seen, 0)[column("corrected")] == 2
    assert context(seen, 1)[column("corrected")] == 0


async def test_an_overflow_concerns_its_tickets_alone(lane: Lane, keyring: Keyring) -> None:
    huge = 2**62
    await admit(lane, keyring, ticket("A", digger="bob", depth=huge))
    batch = await admit(
        lane,
        keyring,
        ticket("B", digger="bob", depth=huge),
        ticket("C", digger="bob", depth=1),
        ticket("D", digger="eve", depth=huge),
    )
    assert isinstance(batch.results[0], HistoryOverflow)
    assert batch.results[1:] == [Admitted(1, 0), Admitted(1, 1)]
    after = await admit(lane, keyring, ticket("E", digger="bob"))
    assert context(after)[column("depth_sum")] == huge + 1


async def test_as_of_may_be_demanded_but_only_later(lane: Lane, keyring: Keyring) -> None:
    moment = datetime(2026, 5, 1, tzinfo=UTC)
    first = await admit(lane, keyring, ticket("A"), as_of=moment)
    assert first.as_of == moment
    with pytest.raises(ClockBehind):
        await admit(lane, keyring, ticket("B"), as_of=moment)


async def test_a_clock_in_the_future_goes_on_by_microseconds(lane: Lane, keyring: Keyring) -> None:
    future = datetime.now(UTC) + timedelta(days=1)
    await admit(lane, keyring, ticket("A"), as_of=future)
    later = await admit(lane, keyring, ticket("B"))
    assert later.as_of == future + timedelta(microseconds=1)


async def test_other_slots_than_the_logs_are_refused(lane: Lane, keyring: Keyring) -> None:
    await admit(lane, keyring, ticket("A"))
    features = PLAN.workflow.features[:3]
    fewer = HistoryPlan(PLAN.workflow.model_copy(update={"features": features}))
    with pytest.raises(HistoryNotReady):
        await admit(lane, keyring, ticket("B"), plan=fewer)
    features = PLAN.workflow.features[::-1]
    reordered = HistoryPlan(PLAN.workflow.model_copy(update={"features": features}))
    first = await admit(lane, keyring, ticket("C", digger="bob", depth=7), plan=reordered)
    assert context(first)[column("depth_sum")] == 0
    second = await admit(lane, keyring, ticket("D", digger="bob"))
    assert context(second)[column("depth_sum")] == 7


async def test_outcomes_become_known(lane: Lane, keyring: Keyring) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"), ticket("B", digger="bob"))
    results = await record(
        lane,
        keyring,
        told("A", damage=True, cost=100),
        told("B", damage=False, cost=300),
        told("nobody", damage=True),
        told("A", "acted"),
        told("A", damage=True, given_at=datetime.now(UTC) + timedelta(hours=1)),
    )
    assert [type(r) for r in results] == [
        Recorded,
        Recorded,
        TicketUnknown,
        Recorded,
        OutcomeInFuture,
    ]
    seen = await admit(lane, keyring, ticket("C", digger="bob"))
    found = context(seen)
    assert (found[column("damages", 0)], found[column("damages", 1)]) == (1, 2)
    assert (found[column("cost_mean", 0)], found[column("cost_mean", 1)]) == (400, 2)


async def test_the_same_outcome_twice_is_one_row(
    lane: Lane, keyring: Keyring, db: Database
) -> None:
    await admit(lane, keyring, ticket("A", digger="bob"))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    a, b = told("A", damage=True, given_at=yesterday), told("A", damage=False)
    first = await record(lane, keyring, a, a)
    assert [(r.ordinal, r.is_new) for r in first] == [(1, True), (1, False)]
    again = await record(lane, keyring, told("A", damage=True))
    assert [(r.ordinal, r.is_new) for r in again] == [(1, False)]
    await record(lane, keyring, b)
    retried, back = await record(lane, keyring, a, told("A", damage=True))
    assert (retried.ordinal, retried.is_new) == (1, False)
    assert (back.ordinal, back.is_new) == (3, True)
    assert await db.pool.fetchval("SELECT count(*) FROM outcomes") == 3


async def test_of_two_commits_of_one_decision_the_first_wins(
    lane: Lane, keyring: Keyring, db: Database
) -> None:
    batch = await admit(lane, keyring, ticket("A"), ticket("B"))
    (mine,) = await decide(lane, batch.tickets[0], band=3)
    other = await Lane.open(db, "other", keyring)
    told_a, told_b = await decide(other, *batch.tickets, band=0)
    assert (told_a["band"], told_b["band"]) == (3, 0)
    assert {name: told_a[name] for name in mine} == mine
    assert await db.pool.fetchval("SELECT count(*) FROM decisions") == 2


async def test_racing_commits_agree(keyring: Keyring, lane: Lane, db: Database) -> None:
    batch = await admit(lane, keyring, *(ticket(f"T{i}") for i in range(20)))
    lanes = [await Lane.open(db, f"racer{i}", keyring) for i in range(4)]
    orders = [batch.tickets, batch.tickets[::-1], batch.tickets[5:], batch.tickets[:15]]
    answers = await asyncio.gather(
        *(
            decide(racer, *rows, band=i)
            for i, (racer, rows) in enumerate(zip(lanes, orders, strict=True))
        )
    )
    bands: dict[str, set[int]] = {}
    for rows in answers:
        for row in rows:
            bands.setdefault(row["ticket_id"], set()).add(row["band"])
    assert {len(found) for found in bands.values()} == {1}


async def test_reading(lane: Lane, keyring: Keyring, db: Database) -> None:
    batch = await admit(lane, keyring, ticket("A", depth=1), ticket("B"))
    await admit(lane, keyring, ticket("A", depth=2))
    stored = await decide(lane, *batch.tickets)
    await record(lane, keyring, told("A", damage=True))
    row = stored[0]
    assert await reading.decision(db, row["decision_id"]) == row
    assert await reading.first_decision(db, NAME, "A", 1) == row
    assert await reading.first_decision(db, NAME, "A", 2) is None
    kept = await reading.ticket(db, NAME, "A", 1)
    assert kept is not None
    assert StoredTicket.from_row(kept, TICKETS) == batch.tickets[0]
    assert await reading.ticket(db, NAME, "nobody", 1) is None
    history = await reading.history(db, NAME, "A")
    assert history is not None
    assert [r["revision"] for r in history.revisions] == [1, 2]
    assert [r["revision"] for r in history.decisions] == [1]
    assert [r["kind"] for r in history.outcomes] == ["outcome"]
    assert await reading.history(db, NAME, "nobody") is None
    with pytest.raises(NotADecisionId):
        await reading.decision(db, uuid.uuid4())


async def test_lists_by_keyset(lane: Lane, keyring: Keyring, db: Database) -> None:
    for i in range(4):
        batch = await admit(lane, keyring, *(ticket(f"T{i}.{j}") for j in range(3)))
        await decide(lane, *batch.tickets, band=i)
    everything = await reading.list_decisions(db, NAME, reading.Filters(), limit=100)
    assert len(everything) == 12
    pages, after = [], None
    while page := await reading.list_decisions(db, NAME, reading.Filters(), after=after, limit=5):
        pages += page
        after = (page[-1]["as_of"], page[-1]["decision_id"])
    assert pages == everything
    high = await reading.list_decisions(db, NAME, reading.Filters(band=3), limit=100)
    assert high == everything[:3]
    since = everything[5]["as_of"]
    some = reading.Filters(since=since, until=everything[0]["as_of"], route="auto", is_tie=False)
    assert await reading.list_decisions(db, NAME, some) == everything[3:6]
    assert await reading.list_decisions(db, NAME, reading.Filters(policy_hash="q")) == []


async def test_pairs_for_replay(lane: Lane, keyring: Keyring, db: Database) -> None:
    batch = await admit(lane, keyring, *(ticket(f"T{i}") for i in range(50)))
    await decide(lane, *batch.tickets)
    found = [pair async for pairs in reading.pairs(db, NAME, batch=16) for pair in pairs]
    assert len(found) == 50
    assert all(d["ticket_id"] == t["ticket_id"] for d, t in found)
    again = [StoredTicket.from_row(row, TICKETS) for _, row in found]
    assert sorted(again, key=attrgetter("ticket_id")) == sorted(
        batch.tickets, key=attrgetter("ticket_id")
    )
    some = [pair async for pairs in reading.pairs(db, NAME, sample=10) for pair in pairs]
    assert len(some) == 10
    assert some == [p async for pairs in reading.pairs(db, NAME, sample=10) for p in pairs]
    everything = [p async for pairs in reading.pairs(db, NAME, sample=1_000) for p in pairs]
    assert len(everything) == 50


async def test_undecided_tickets_are_found_until_they_are_decided(
    lane: Lane, keyring: Keyring, db: Database
) -> None:
    first = await admit(lane, keyring, ticket("A"), ticket("B"))
    second = await admit(lane, keyring, ticket("C"))
    await decide(lane, first.tickets[0], *second.tickets)
    now = datetime.now(UTC) + timedelta(seconds=5)

    async def left() -> list[str]:
        rows = await reading.undecided(db, NAME, through=now, limit=10)
        return [row["ticket_id"] for row in rows]

    assert await left() == ["B"]
    await decide(lane, first.tickets[1])
    assert await left() == []


async def test_the_clock_of_what_is_decided_never_goes_back(
    lane: Lane, keyring: Keyring, db: Database
) -> None:
    first = await admit(lane, keyring, ticket("A"))
    second = await admit(lane, keyring, ticket("B"))
    await decide(lane, *first.tickets, *second.tickets)
    for through in (second.as_of, first.as_of):
        async with lane.unit() as unit:
            await commit.advance_decided_through(unit, NAME, through)
        found = await db.pool.fetchval("SELECT decided_through FROM workflow_clocks")
        assert found == second.as_of


async def test_decisions_survive_exactly(lane: Lane, keyring: Keyring, db: Database) -> None:
    batch = await admit(lane, keyring, ticket("A"))
    row = decision_row(batch.tickets[0], margin=float("inf"), score=5e-324, rules_points=-(2**63))
    async with lane.unit() as unit:
        await commit.commit(unit, [row])
    assert await reading.decision(db, row["decision_id"]) == row
