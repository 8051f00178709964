"""The task worker as it is supervised: a real process on a real queue and database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from tests.databases import DatabaseUrls, run

from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.secret_files import ensure_secrets
from tiebreak.store import partitions

SECONDS = 60


@pytest.fixture
def environment(database_urls: DatabaseUrls, valkey_url: str, tmp_path: Path) -> dict[str, str]:
    ensure_secrets(tmp_path / "data" / "secrets", is_new=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TIEBREAK_", "DATABASE_"))}
    return kept | {
        "TIEBREAK_DATA_DIR": str(tmp_path / "data"),
        "DATABASE_URL": database_urls.app,
        "REDIS_URL": valkey_url.rpartition("/")[0] + "/7",
    }


@pytest.fixture
def worker(environment: dict[str, str]) -> Generator[subprocess.Popen[bytes]]:
    words = ("celery", "-A", "tiebreak.tasks.app", "worker", "-B", "--pool", "threads")
    folder = Path(environment["TIEBREAK_DATA_DIR"])
    process = subprocess.Popen([sys.executable, "-m", *words], env=environment, cwd=folder)
    yield process
    process.terminate()
    process.wait(SECONDS)


def call(environment: dict[str, str], name: str) -> str:
    """Send a task from another process, as a client does, and give its result."""
    code = (
        f"from tiebreak.tasks.app import app;print(app.send_task({name!r}).get(timeout={SECONDS}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_tasks_run_on_the_queue(
    worker: subprocess.Popen[bytes], environment: dict[str, str], database_urls: DatabaseUrls
) -> None:
    name = call(environment, "audit.checkpoint")
    artifacts = ArtifactStore(Folder(Path(environment["TIEBREAK_DATA_DIR"]) / "artifacts"))
    assert name in artifacts.list_checkpoints()
    call(environment, "store.partitions")
    present = run(_years(database_urls.owner))
    assert set(partitions.years_ahead(datetime.now(UTC))) <= present
    assert worker.poll() is None


async def _years(url: str) -> set[int]:
    connection = await asyncpg.connect(url)
    try:
        found = await partitions.existing(connection)
    finally:
        await connection.close()
    return {int(name[-4:]) for name in found["decisions"]}


def test_the_schedule_works_each_minute_and_makes_partitions_each_day() -> None:
    from tiebreak.tasks.app import app

    schedule = {entry["task"]: entry["schedule"] for entry in app.conf.beat_schedule.values()}
    minutely = {"audit.checkpoint", "backtest.sweep", "training.sweep"}
    assert set(schedule) == minutely | {"store.partitions"}
    for task in minutely:
        assert schedule[task].minute == set(range(60))
        assert schedule[task].hour == set(range(24))
    assert len(schedule["store.partitions"].minute) == len(schedule["store.partitions"].hour) == 1
    app.loader.import_default_modules()
    assert set(schedule) <= set(app.tasks)
