"""The gates on real models and a real database: a sound candidate passes, broken ones do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.candidates import World

from tiebreak.release.evaluating import Evaluated, evaluate
from tiebreak.release.gate_results import Result, Verdict
from tiebreak.release.releases import Release
from tiebreak.release.states import Stage
from tiebreak.store.database import Database


@pytest.fixture
async def world(db: Database, tmp_path: Path) -> World:
    return await World.made(db, tmp_path)


async def evaluated(world: World, release: Release, stage: Stage = Stage.CANARY) -> Evaluated:
    return await evaluate(world.office, world.evidence, release.release_id, stage, actor="ann")


def blocking(found: Evaluated) -> dict[str, Verdict]:
    return {r.gate: r.verdict for r in found.results if r.verdict is not Verdict.PASS}


def gate(found: Evaluated, name: str) -> Result:
    return next(result for result in found.results if result.gate == name)


async def test_a_sound_model_passes_against_rules_alone(world: World) -> None:
    digest = world.bundled((await world.trained()).parts)
    release = await world.proposed(digest)
    assert blocking(await evaluated(world, release)).keys() >= {"volume", "labels", "replay"}
    assert await world.shadow(release) == 0
    found = await evaluated(world, release)
    for result in found.results:
        print(result.gate, result.verdict, result.figure, result.sentence, result.hint)
    assert blocking(found) == {}
    assert found.is_passed
