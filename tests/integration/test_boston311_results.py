"""The story of docs/results.md on real tickets: import, train, decide 2017, assess, replay."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.databases import DatabaseUrls

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.core.policy import PolicyParts
from tiebreak.decisions.assessment import assess
from tiebreak.decisions.replay import Cause, replay
from tiebreak.decisions.service import DecisionService
from tiebreak.ingest.importer import Files, import_history
from tiebreak.registry import records
from tiebreak.settings import DatabaseSettings, Keyring, Settings
from tiebreak.store import reading
from tiebreak.store.database import Database
from tiebreak.training.fit import Parameters
from tiebreak.training.requests import Request
from tiebreak.training.runs import Trainer
from tiebreak.workflows import versions
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TIEBREAK_REAL_DATA", ROOT.parent / "shared" / "data")) / "boston311"
YEARS = ("2008_2015", "2016", "2017")
VALID_FROM = datetime(2016, 9, 1, tzinfo=UTC)
DECIDED_FROM, UNTIL = datetime(2017, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC)

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not DATA.is_dir(),
        reason=f"REAL DATA MISSING: no folder {DATA}; set TIEBREAK_REAL_DATA to where it is",
    ),
]


async def test_a_year_decided_at_its_own_time_is_as_good_as_documented(
    db: Database, database_urls: DatabaseUrls, keyring: Keyring, tmp_path: Path
) -> None:
    workflow, rules = check_folder(ROOT / "workflows" / "boston311").sound()
    settings = Settings(data_dir=tmp_path, database=DatabaseSettings(url=database_urls.app))
    lane = await Lane.open(db, "tests", keyring)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    await versions.load(lane, workflow, rules, author="ann", reason="test")
    files = Files(
        [DATA / f"tickets_{year}.parquet" for year in YEARS], rejects=tmp_path / "rejects.ndjson"
    )
    await import_history(db, keyring, workflow, files, actor="ann")

    request = Request(
        workflow=workflow.name,
        workflow_version=workflow.version,
        known_by=datetime(2017, 1, 8, tzinfo=UTC),
        valid_from=VALID_FROM,
        family=None,
        parameters=Parameters(valid_from=VALID_FROM),
        author="ann",
        reason="test",
    )
    run = await Trainer(db, lane, settings, keyring).run(request, lambda *_: None)
    parts = PolicyParts(workflow.name, workflow.version, rules.version, run.digest)
    await records.install(lane, keyring, parts, author="ann", approver="bob", reason="test")

    service = await DecisionService.start(settings, keyring)
    try:
        decided = await service.decide_imported(workflow.name, since=DECIDED_FROM, until=UNTIL)
        assert decided > 71_000
        known_by = datetime(2018, 1, 15, tzinfo=UTC)
        found = await assess(db, workflow, since=DECIDED_FROM, until=UNTIL, known_by=known_by)
        sample = reading.pairs(db, workflow.name, sample=3_000)
        report = await replay(sample, service.library)
    finally:
        await service.drain()
    assert found.model["auc"] is not None
    assert found.model["pr_auc"] is not None
    assert found.model["auc"] > 0.91  # 0.900 and 0.677 without the text feature
    assert found.model["pr_auc"] > 0.69
    assert abs(found.model["mean_score"] - found.model["base_rate"]) < 0.04
    assert set(report.counts) == {Cause.IDENTICAL}
