"""What may be proposed for production, and what is refused before it can do harm."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.functional.serving import REPAIRS, RULES, TICKET

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.history import HistoryPlan
from tiebreak.core.tickets import submission, ticket_schema
from tiebreak.core.workflow import Entity, HistoryFeature, Workflow
from tiebreak.errors import NotAllowed
from tiebreak.ingest.rebuild import rebuild
from tiebreak.registry import records
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.registry.proposals import ModelUnfit, propose
from tiebreak.settings import Keyring
from tiebreak.store.admission import admit, prepare
from tiebreak.store.database import Database
from tiebreak.store.kept import HistoryNotReady
from tiebreak.store.starts import Starts
from tiebreak.workflows import versions


def counting(days: int) -> dict:
    kinds = HistoryFeature(name="recent", entity="kind", aggregate="count", where=f"cost > {days}")
    return {"entities": (Entity(name="kind", key=("kind",)),), "features": (kinds,)}


async def arrive(lane: Lane, keyring: Keyring, workflow: Workflow) -> None:
    schema = ticket_schema(workflow)
    values = schema.read(TICKET)
    async with lane.unit() as unit:
        await admit(
            unit,
            prepare(
                HistoryPlan(workflow), schema, [submission(schema, "t1", None, values)], keyring
            ),
            actors=["ann"],
            received_at=[datetime.now(UTC)],
            starts=Starts(),
        )


@pytest.fixture
def library(db: Database, keyring: Keyring, tmp_path: Path) -> PolicyLibrary:
    keys = BundleKeys(keyring.bundle_keys, keyring.bundle_signing_key_id)
    return PolicyLibrary(db, ArtifactStore(Folder(tmp_path)), keys)


async def test_other_history_features_are_refused_once_there_is_history(
    db: Database, keyring: Keyring, library: PolicyLibrary
) -> None:
    lane = await Lane.open(db, "tests", keyring)
    first, second = (REPAIRS.model_copy(update=counting(days)) for days in (7, 30))
    await versions.load(lane, first, RULES, author="ann", reason="first")
    await propose(db, library, keyring, "repairs", ordinal=None, digest=None)
    await arrive(lane, keyring, first)
    await versions.load(lane, second, RULES, author="ann", reason="second")
    assert (await propose(db, library, keyring, "repairs", ordinal=1, digest=None)).ordinal == 1
    with pytest.raises(HistoryNotReady) as refused:
        await propose(db, library, keyring, "repairs", ordinal=2, digest=None)
    assert "`tiebreak history rebuild repairs --version 2`" in (refused.value.hint or "")
    await rebuild(db, lane, keyring, "repairs", actor="ann", ordinal=2)
    proposal = await propose(db, library, keyring, "repairs", ordinal=2, digest=None)
    assert proposal.parts.history_generation == 2


async def test_first_history_features_are_refused_while_there_are_tickets_without(
    db: Database, keyring: Keyring, library: PolicyLibrary
) -> None:
    lane = await Lane.open(db, "tests", keyring)
    await versions.load(lane, REPAIRS, RULES, author="ann", reason="first")
    await arrive(lane, keyring, REPAIRS)
    second = REPAIRS.model_copy(update=counting(7))
    await versions.load(lane, second, RULES, author="ann", reason="second")
    with pytest.raises(HistoryNotReady):
        await propose(db, library, keyring, "repairs", ordinal=None, digest=None)
    with pytest.raises(HistoryNotReady):
        await arrive(lane, keyring, second)
    assert (await rebuild(db, lane, keyring, "repairs", actor="ann")).events == 1
    await propose(db, library, keyring, "repairs", ordinal=None, digest=None)
    await arrive(lane, keyring, second)


async def test_a_model_that_is_not_there_is_refused(
    db: Database, keyring: Keyring, library: PolicyLibrary
) -> None:
    lane = await Lane.open(db, "tests", keyring)
    await versions.load(lane, REPAIRS, RULES, author="ann", reason="first")
    with pytest.raises(ModelUnfit):
        await propose(db, library, keyring, "repairs", ordinal=None, digest="0" * 64)


async def test_author_and_approver_are_two_persons(
    db: Database, keyring: Keyring, library: PolicyLibrary
) -> None:
    lane = await Lane.open(db, "tests", keyring)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    await versions.load(lane, REPAIRS, RULES, author="ann", reason="first")
    parts = (await propose(db, library, keyring, "repairs", ordinal=None, digest=None)).parts
    with pytest.raises(NotAllowed):
        await records.install(lane, keyring, parts, author="ann", approver="ann", reason="x")
    release = await records.install(lane, keyring, parts, author="ann", approver="bob", reason="x")
    assert (await records.current(db, keyring))["repairs"] == release
