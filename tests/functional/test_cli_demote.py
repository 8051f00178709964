"""An emergency demotion is in force in every worker within a second, under load."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from bench import demote as bench
from bench.load import Load
from bench.stack import tiebreak, up
from tests.databases import servers_place

from tiebreak.embedded.stack import stack
from tiebreak.settings import Settings

ROOT = Path(__file__).parents[2]
WORKERS = 2
TRIALS = 3


@pytest.fixture
def data_dir(tmp_path: Path) -> Generator[Path]:
    folder = servers_place() / f"tiebreak demote {os.getpid()} {tmp_path.name}"
    yield folder
    tiebreak(folder, WORKERS, "down", "--remove-data", "--yes")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_every_worker_follows_a_demotion_within_a_second(data_dir: Path, tmp_path: Path) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        return tiebreak(data_dir, WORKERS, *arguments)

    fields = tmp_path / "fields.ndjson"
    example = orjson.loads((ROOT / "docs" / "examples" / "locate-ticket.json").read_bytes())
    fields.write_bytes(orjson.dumps(example["fields"]))
    with up(data_dir, WORKERS) as running:
        keys = {
            role: run("keys", "create", "--person", person, "--role", role)["key"]
            for person, role in (
                ("ann", "ml_engineer"),
                ("bob", "approver"),
                ("ann", "service"),
            )
        }
        why = ("--as", "ann", "--reason", "test")
        run("workflow", "load", str(ROOT / "workflows" / "locate"), *why)
        run("release", "install", "locate", "--approved-by", "bob", "--model", "none", *why)
        before, policy = bench.prepared(data_dir, "locate")
        headers = {"Authorization": f"Bearer {keys['ml_engineer']}"}
        load = Load(
            port=running.port,
            path="/v1/workflows/locate/decisions",
            fields_file=str(fields),
            connections=8,
            seconds=3600,
            id_prefix="demote",
            headers={"Authorization": f"Bearer {keys['service']}"},
            policies_file=str(tmp_path / "answers.json"),
        )
        with (
            httpx.Client(base_url=running.url, headers=headers, timeout=30) as engineer,
            stack(Settings(data_dir=data_dir)) as services,
            bench.loaded(load),
        ):
            url = services.settings.database.url
            assert url is not None
            sides = bench.Sides(
                engineer, keys["approver"], "locate", policy, before, tmp_path / "answers.json"
            )
            seconds = asyncio.run(bench.trials(url.get_secret_value(), sides, TRIALS))
            assert max(seconds) < bench.GOAL_SECONDS, seconds
            asyncio.run(_both_decided(url.get_secret_value()))
            sides.forward()
            time.sleep(1)
            run("release", "demote", "locate", *why)
            asyncio.run(_follow(url.get_secret_value(), before))


async def _both_decided(url: str) -> None:
    """Both workers took part: each decides in a lane of its own."""
    db = await bench.Database.open(url, 1)
    try:
        assert await db.pool.fetchval("SELECT count(DISTINCT lane) FROM decisions") >= WORKERS
    finally:
        await db.close()


async def _follow(url: str, policy: str) -> None:
    db = await bench.Database.open(url, 1)
    try:
        await asyncio.sleep(bench.GOAL_SECONDS)
        query = "SELECT policy_hash FROM decisions ORDER BY decided_at DESC LIMIT 20"
        assert {row["policy_hash"] for row in await db.pool.fetch(query)} == {policy}
    finally:
        await db.close()
