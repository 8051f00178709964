"""Candidates name the generation of history that serves, so that they can be promoted."""

from __future__ import annotations

from pathlib import Path

from tests import releases
from tests.databases import DatabaseUrls, execute
from tests.keys import KEYRING
from tests.store_samples import NAME, WORKFLOW

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import RuleSet
from tiebreak.registry.candidates import Changes, candidate
from tiebreak.store.database import Database
from tiebreak.workflows import versions


async def test_a_change_names_the_generation_that_serves_and_a_stored_policy_its_own(
    db: Database, database_urls: DatabaseUrls, tmp_path: Path
) -> None:
    lane = await Lane.open(db, "tests", KEYRING)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    await versions.load(lane, WORKFLOW, RuleSet(), author="ann", reason="test")
    parts = PolicyParts(NAME, WORKFLOW.version, RuleSet().version)
    await releases.put(db, lane, KEYRING, parts)
    library = releases.office_of(db, lane, KEYRING).library
    await execute(
        database_urls.admin,
        "INSERT INTO workflow_clocks (workflow, last_as_of, decided_through, history_generation)"
        f" VALUES ('{NAME}', now(), now(), 2)",
    )
    artifacts = ArtifactStore(Folder(tmp_path))
    changes = Changes(knobs={"audit_share": "0.5"})
    changed = await candidate(db, library, artifacts, NAME, parts, changes)
    assert changed.parts.history_generation == 2
    stored = await candidate(db, library, artifacts, NAME, parts, Changes(policy=parts.hash))
    assert stored.parts == parts
