"""Import of real tickets: requests to the City of Boston, where the data is there."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from tiebreak.core.workflow import Workflow
from tiebreak.ingest.importer import Files, import_history
from tiebreak.settings import Keyring
from tiebreak.store.database import Database
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TIEBREAK_REAL_DATA", ROOT.parent / "shared" / "data")) / "boston311"
YEARS = ("2008_2015", "2016", "2017")

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"REAL DATA MISSING: no folder {DATA}; set TIEBREAK_REAL_DATA to where boston311/ is",
)


@pytest.fixture(scope="module")
def boston() -> Workflow:
    return check_folder(ROOT / "workflows" / "boston311").sound()[0]


async def check(
    db: Database, keyring: Keyring, workflow: Workflow, files: Files, source: pl.DataFrame
) -> None:
    """Import and compare with what the source says; then import again, which adds nothing."""
    report = await import_history(db, keyring, workflow, files, actor="tests")
    assert report.rejected == 0
    assert report.tickets == source.height
    closed = source.filter(pl.col("post_status") == "closed").height
    assert report.events["closed"] == closed
    slow = source.filter(pl.col("label_slow_7d").is_not_null()).height
    assert report.events["outcome"] == slow
    async with db.connection() as connection:
        early = await connection.fetchval(
            """
            SELECT count(*) FROM outcomes o
            JOIN ticket_keys k USING (workflow, ticket_id)
            WHERE o.kind = 'outcome' AND o.known_at <> k.as_of + interval '168 hours'
            """
        )
        assert early == 0
        first = await connection.fetchval("SELECT min(as_of) FROM tickets")
        contexts = await connection.fetchval(
            "SELECT count(DISTINCT context) FROM tickets WHERE context <> '{}'"
        )
    local = source["opened_at"].min()
    assert isinstance(local, datetime)
    assert abs(first - local.replace(tzinfo=UTC)) <= timedelta(hours=5)
    assert contexts > source.height * 0.8

    again = await import_history(db, keyring, workflow, files, actor="tests")
    assert (again.tickets, again.rejected) == (0, 0)
    assert set(again.events.values()) == {0}


async def test_a_part_of_2016_imports(
    db: Database, keyring: Keyring, boston: Workflow, tmp_path: Path
) -> None:
    part = pl.read_parquet(DATA / "tickets_2016.parquet").head(1_500)
    path = tmp_path / "part.parquet"
    part.write_parquet(path)
    await check(db, keyring, boston, Files([path], rejects=tmp_path / "rejects.ndjson"), part)


@pytest.mark.full
@pytest.mark.timeout(900)
async def test_all_years_import(
    db: Database, keyring: Keyring, boston: Workflow, tmp_path: Path
) -> None:
    paths = [DATA / f"tickets_{years}.parquet" for years in YEARS]
    source = pl.concat([pl.read_parquet(path) for path in paths])
    await check(db, keyring, boston, Files(paths, rejects=tmp_path / "rejects.ndjson"), source)
