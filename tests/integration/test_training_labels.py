"""Labels of outcomes and of reviews, by the workflow's precedence, with what they count."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.keys import KEYRING
from tests.store_samples import WORKFLOW, admit, decide, ticket

from tiebreak.access.keys import create_key
from tiebreak.access.persons import ensure_person
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.core.bands import Band
from tiebreak.core.workflow import Label, LabelSource, RuleSet, Workflow
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.training.labels import KnownLabel, read_labels
from tiebreak.training.snapshot import read_snapshot

AS_OF = datetime(2026, 1, 5, tzinfo=UTC)
MATURE = AS_OF + timedelta(days=10)
SAID = AS_OF + timedelta(days=2)
BY_THEN = datetime.now(UTC) + timedelta(days=1)
ALL: tuple[LabelSource, ...] = ("outcome", "adjudicated", "review")


def workflow(*precedence: LabelSource, **more: Any) -> Workflow:
    label = Label(name="bad", sql="damage", maturity_days=10, precedence=precedence, **more)
    return WORKFLOW.model_copy(update={"label": label})


@pytest.fixture
async def lane(db: Database) -> Lane:
    """Tickets `a` to `f` with decisions, and people who reviewed some of them."""
    found = await Lane.open(db, "tests", KEYRING)
    async with found.unit() as unit:
        for person in ("ann", "bob", "lea"):
            await ensure_person(unit, person, actor="tests")
    batch = await admit(found, KEYRING, *(ticket(name, depth=1) for name in "abcdef"), as_of=AS_OF)
    sent = {"a": 1.0, "b": 0.5, "c": 0.01, "d": 0.0, "e": 0.1, "f": 1.0}
    for each in batch.tickets:
        await decide(found, each, review_probability=sent[each.ticket_id])
    return found


async def say(lane: Lane, *words: tuple[str, str, Band], day: int = 2) -> None:
    """Words of reviewers: ticket, reviewer, band."""
    given_at = AS_OF + timedelta(days=day)
    rows = [
        {
            "workflow": WORKFLOW.name,
            "ticket_id": ticket_id,
            "ordinal": day * 100 + place,
            "reviewer": reviewer,
            "band": int(band),
            "given_at": given_at,
            "received_at": given_at,
            "note": None,
        }
        for place, (ticket_id, reviewer, band) in enumerate(words)
    ]
    async with lane.unit() as unit:
        unit.add(tables.ml_feedback, rows)


async def happened(lane: Lane, *ends: tuple[str, bool]) -> None:
    """Outcomes, known a day after the ticket."""
    rows = [
        {
            "workflow": WORKFLOW.name,
            "ticket_id": ticket_id,
            "ordinal": 1,
            "kind": "outcome",
            "known_at": AS_OF + timedelta(days=1),
            "given_at": None,
            "received_at": AS_OF + timedelta(days=1),
            "actor": "tests",
            "content": '{"damage":true}' if is_bad else '{"damage":false}',
            "content_hash": b"h",
        }
        for ticket_id, is_bad in ends
    ]
    async with lane.unit() as unit:
        unit.add(tables.outcomes, rows)


async def labels(db: Database, workflow: Workflow, known_by: datetime = BY_THEN) -> dict[str, Any]:
    """Value and weight of each ticket's label, None where there is none."""
    read = await read_labels(db, workflow, known_by=known_by)
    found = {name: read.of(name, AS_OF) for name in "abcdef"}
    return {name: each and (each.value, each.weight) for name, each in found.items()}


async def test_who_is_believed_first_is_configured(db: Database, lane: Lane) -> None:
    await happened(lane, ("a", False), ("b", True))
    await say(
        lane,
        *(("a", "ann", Band.CRITICAL), ("a", "bob", Band.HIGH)),  # agree, against the outcome
        *(("b", "ann", Band.LOW),),  # alone, against the outcome
        *(("c", "ann", Band.HIGH), ("c", "bob", Band.CRITICAL)),
        *(("d", "ann", Band.LOW),),
        *(("e", "ann", Band.LOW), ("e", "bob", Band.HIGH)),  # contradict each other
    )
    outcome = {"a": (False, 1.0), "b": (True, 1.0)}
    nothing: dict[str, Any] = dict.fromkeys("abcdef")
    assert await labels(db, workflow("outcome")) == nothing | outcome
    both = {"c": (True, 20.0)}
    assert await labels(db, workflow("outcome", "adjudicated")) == nothing | outcome | both
    single = {"d": (False, 1.0)}
    assert await labels(db, workflow(*ALL)) == nothing | outcome | both | single
    turned = {"a": (True, 1.0), "b": (False, 2.0)}
    assert (
        await labels(db, workflow("review", "adjudicated", "outcome"))
        == nothing | both | single | turned
    )


async def test_silence_counts_last_and_only_beside_outcomes(db: Database, lane: Lane) -> None:
    await say(lane, ("b", "ann", Band.HIGH))
    by_silence = await labels(db, workflow("outcome", "review", absent="negative"))
    assert by_silence == dict.fromkeys("abcdef", (False, 1.0)) | {"b": (True, 2.0)}
    assert await labels(db, workflow("review", absent="negative")) == {
        **dict.fromkeys("abcdef"),
        "b": (True, 2.0),
    }


async def test_the_band_from_which_a_review_means_a_bad_end_is_configured(
    db: Database, lane: Lane
) -> None:
    await say(lane, ("a", "ann", Band.MEDIUM))
    assert (await labels(db, workflow("review")))["a"] == (False, 1.0)
    assert (await labels(db, workflow("review", review_from="medium")))["a"] == (True, 1.0)


async def test_a_reviewers_newest_word_counts_as_far_as_it_was_given(
    db: Database, lane: Lane
) -> None:
    await say(lane, ("a", "ann", Band.HIGH), day=2)
    await say(lane, ("a", "ann", Band.LOW), day=20)
    assert (await labels(db, workflow(*ALL)))["a"] == (False, 1.0)
    before = AS_OF + timedelta(days=15)
    assert (await labels(db, workflow(*ALL), before))["a"] == (True, 1.0)
    immature = AS_OF + timedelta(days=5)
    assert (await labels(db, workflow(*ALL), immature))["a"] is None


async def test_the_word_of_who_leads_settles_it(db: Database, lane: Lane) -> None:
    await say(lane, ("a", "lea", Band.LOW), ("a", "ann", Band.HIGH), ("a", "bob", Band.HIGH))
    assert (await labels(db, workflow("adjudicated")))["a"] == (True, 1.0)
    await create_key(
        lane, person="lea", roles=frozenset({Role.LEAD}), actor="tests", expires_at=None
    )
    assert (await labels(db, workflow("adjudicated")))["a"] == (True, 1.0)  # she was none then
    later = (datetime.now(UTC) - AS_OF).days + 1
    await say(lane, ("a", "lea/key", Band.LOW), day=later)
    late = BY_THEN + timedelta(days=2)
    assert (await labels(db, workflow("adjudicated"), late))["a"] == (False, 1.0)


async def test_labels_of_some_tickets_alone(db: Database, lane: Lane) -> None:
    await say(lane, ("a", "ann", Band.HIGH), ("b", "ann", Band.HIGH))
    found = await read_labels(db, workflow(*ALL), known_by=BY_THEN, ticket_ids=["b"])
    assert found.told == {"b": KnownLabel(True, SAID, 2.0)}


async def test_a_snapshot_carries_the_weights(db: Database, lane: Lane) -> None:
    await say(lane, ("b", "ann", Band.HIGH), ("c", "ann", Band.LOW))
    await happened(lane, ("a", True))

    async def taken(*precedence: LabelSource) -> Any:
        return await read_snapshot(
            db,
            workflow(*precedence),
            known_by=BY_THEN,
            entity_secret=KEYRING.entity_key,
            rules=RuleSet(),
        )

    found = await taken(*ALL)
    assert _weights(found.row_weights) == [1.0, 2.0, 20.0]
    assert found.label.to_list() == [True, True, False]
    assert found.known_at.to_list() == [MATURE] * 3
    alone = await taken("outcome")
    assert _weights(alone.row_weights) == [1.0]
    assert alone.data_hash != found.data_hash


def _weights(values: Any) -> Sequence[float]:
    return values.tolist()
