"""What is measured: `locate` with 30 rules and a model of 300 trees of depth 6, on two years.

The database is as after some days: its write-ahead log has been around once, so that it writes
into files that are there. Each of the first ones holds up all commits for as long as it is made.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from tiebreak.access.persons import ensure_person
from tiebreak.cli.demonstration.scene import AUTHOR, Scene
from tiebreak.cli.demonstration.tickets import Plan, now_utc
from tiebreak.cli.session import Session, opened
from tiebreak.core import model as parts_of
from tiebreak.core.workflow import RuleSet, Workflow
from tiebreak.embedded.stack import Services, stack
from tiebreak.settings import Settings
from tiebreak.training.fit import Parameters
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parent.parent
RULES = 30
TREES = 300
DEPTH = 6
LIVE = 5_000  # different tickets that the load repeats under new ids
LOG_FILES = 64  # of the write-ahead log, 1 GB in all
SLOW = 0.015  # a learning rate at which early stopping does not set in before the last tree


@dataclass(frozen=True)
class Stage:
    """A data folder with a policy in production, and what the load and the alternative need."""

    data_dir: Path
    workflow: str
    fields_file: Path
    native_model: Path
    features: list[str]
    policy: dict[str, int]


@cache
def stage() -> Stage:
    """The stage, prepared once for all benchmarks of a run and removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-bench-"))
    folder.chmod(0o711)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        made = other.submit(_make, folder).result()  # its memory is not the benchmarks'
    os.sync()  # or the disk would be busy with it for half a minute more
    return made


def _make(folder: Path) -> Stage:
    workflow, rules = check_folder(ROOT / "workflows" / "locate").sound()
    with stack(Settings(data_dir=folder / "data")) as services:
        return asyncio.run(_prepare(services, folder, workflow, RuleSet(rules=rules.rules[:RULES])))


async def _prepare(services: Services, folder: Path, workflow: Workflow, rules: RuleSet) -> Stage:
    plan = Plan.of(services.settings.data_dir, now_utc())
    simulation = plan.simulation()
    parameters = Parameters(
        valid_from=datetime.now(UTC), rounds=TREES, max_depth=DEPTH, learning_rate=SLOW
    )
    async with opened(services, AUTHOR) as session:
        scene = Scene(session, workflow, rules)
        await scene.people_and_workflow()
        async with session.lane.unit() as unit:
            await ensure_person(unit, "bench", actor=AUTHOR)
        await scene.history(plan, simulation, _silent)
        await scene.production(parameters, _silent)
        native, manifest = _bundle(session, workflow.name)
    await _around(services)
    (folder / "model.ubj").write_bytes(native)
    live, _ = plan.next_live(simulation, LIVE)
    names = [field.name for field in workflow.fields if not field.after]
    bodies = [orjson.loads(body)["fields"] for body in live.bodies(now_utc(), names)]
    (folder / "fields.ndjson").write_bytes(b"\n".join(orjson.dumps(body) for body in bodies))
    if manifest["trees"] != TREES:
        raise RuntimeError(f"the model has {manifest['trees']} trees")
    return Stage(
        data_dir=services.settings.data_dir,
        workflow=workflow.name,
        fields_file=folder / "fields.ndjson",
        native_model=folder / "model.ubj",
        features=[feature["name"] for feature in manifest["features"]],
        policy={
            "rules": len(rules.rules),
            "trees": manifest["trees"],
            "depth": DEPTH,
            "features": len(manifest["features"]),
        },
    )


async def _around(services: Services) -> None:
    """Let the write-ahead log go through its files; a checkpoint keeps them for use again."""
    assert services.postgres is not None
    connection = await asyncpg.connect(services.postgres.url("postgres"))
    for _ in range(LOG_FILES):
        await connection.execute("SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()")
    await connection.execute("CHECKPOINT")
    await connection.close()


def _bundle(session: Session, workflow: str) -> tuple[bytes, dict[str, Any]]:
    """The native model and the manifest of the bundle in production."""
    from tiebreak.training.xgboost_booster import XgboostBooster  # not into every benchmark

    digest = session.artifacts.read_alias(workflow, "risk_model_latest")
    assert digest is not None
    parts = session.artifacts.open_bundle(digest, session.bundle_keys)
    return parts[XgboostBooster.part], orjson.loads(parts[parts_of.MANIFEST])


def _silent(_step: str, _share: float) -> None:
    """Takes progress and tells nobody."""
