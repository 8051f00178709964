"""Policies are what their hash says, or they are not used."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests import releases
from tests.databases import DatabaseUrls, execute
from tests.keys import KEYRING
from tests.store_samples import NAME, WORKFLOW

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.core.policy import PolicyParts
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.decisions.active import ActivePolicies
from tiebreak.registry.policies import PolicyLibrary
from tiebreak.release.demotion import Target, demote
from tiebreak.release.releases import Office
from tiebreak.store.addresses import AlteredPolicy, AlteredVersion
from tiebreak.store.database import Database
from tiebreak.workflows import versions

STRICT = WORKFLOW.model_copy(update={"knobs": Knobs(audit_share=0.5)})
RULES = RuleSet()
PLAIN = PolicyParts(NAME, WORKFLOW.version, RULES.version)
OTHER = replace(PLAIN, workflow_version=STRICT.version)


@pytest.fixture
async def office(db: Database) -> Office:
    """The plain policy is in production; the versions of both are stored."""
    lane = await Lane.open(db, "tests", KEYRING)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    for version in (WORKFLOW, STRICT):
        await versions.load(lane, version, RULES, author="ann", reason="test")
    await releases.put(db, lane, KEYRING, PLAIN)
    return releases.office_of(db, lane, KEYRING)


def library_of(office: Office) -> PolicyLibrary:
    """A new one, as of a worker that starts."""
    return releases.office_of(office.db, office.lane, KEYRING).library


async def alter(urls: DatabaseUrls, *statements: str) -> None:
    """By somebody with every right but the seal key."""
    await execute(urls.admin, "SET session_replication_role = replica", *statements)


async def test_another_configuration_under_the_same_address_is_not_used(
    office: Office, database_urls: DatabaseUrls
) -> None:
    """Neither beside the one that fits, whichever is found first, nor in its place."""
    await alter(
        database_urls,
        "ALTER TABLE workflow_versions DROP CONSTRAINT workflow_versions_ordinal_check",
        "INSERT INTO workflow_versions SELECT workflow, -1, workflow_version, rules_version, "
        """replace(config, '"audit_share":0.01', '"audit_share":0.99'), '{"rules":[]} ', """
        "created_at, author, reason, salt, lane, seal_seq, seal_position "
        "FROM workflow_versions WHERE ordinal = 1",
    )
    loaded = await library_of(office).get(PLAIN.hash)
    assert loaded.policy.hash == PLAIN.hash
    assert loaded.policy.workflow == WORKFLOW
    await alter(database_urls, "DELETE FROM workflow_versions WHERE ordinal = 1")
    library = library_of(office)
    for asked in (library.recipe(PLAIN), library.build(PLAIN), library.get(PLAIN.hash)):
        with pytest.raises(AlteredVersion):
            await asked


async def test_other_parts_under_a_hash_are_not_used(
    office: Office, database_urls: DatabaseUrls
) -> None:
    statement = f"UPDATE policies SET workflow_version = '{STRICT.version}'"
    await alter(database_urls, statement)
    library = library_of(office)
    for asked in (library.parts(PLAIN.hash), library.get(PLAIN.hash)):
        with pytest.raises(AlteredPolicy):
            await asked
    with pytest.raises(AlteredPolicy):
        await demote(office, NAME, Target.RULES, seq=1, author="ann", reason="test")


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE policies SET history_generation = 7", "altered_policy"),
        ("UPDATE workflow_versions SET config = config || ' '", "altered_version"),
        ("DELETE FROM workflow_versions", "unknown_version"),
    ],
)
async def test_what_is_not_what_its_address_says_leaves_the_last_good_policy(
    office: Office, database_urls: DatabaseUrls, statement: str, code: str
) -> None:
    active = ActivePolicies(office.db, library_of(office), KEYRING)
    await active.refresh()
    await releases.put(office.db, office.lane, KEYRING, OTHER)
    await alter(database_urls, statement)
    await active.refresh()
    assert active.get(NAME).policy.hash == PLAIN.hash
    assert [(p.where, p.code) for p in active.problems()] == [(f"workflows.{NAME}.release", code)]
    started = ActivePolicies(office.db, library_of(office), KEYRING)
    await started.refresh()  # with nothing good to go on with, it starts and says so
    assert started.workflows() == ()
    assert [problem.code for problem in started.problems()] == [code]
