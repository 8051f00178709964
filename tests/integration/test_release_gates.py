"""The gates on real models and a real database: a sound candidate passes, broken ones do not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests import releases
from tests.candidates import (
    BACKTEST,
    IMPORTED_DAYS,
    LEAKY,
    LIVE_A_DAY,
    LIVE_FROM,
    NAME,
    NOW,
    RULES,
    WORKFLOW,
    World,
)
from tests.databases import DatabaseUrls, execute, run

from tiebreak.core.model import ONNX
from tiebreak.core.workflow import RuleSet
from tiebreak.release import canary, evaluations
from tiebreak.release.approvals import NotGated, approve
from tiebreak.release.evaluating import Evaluated, MomentToCome, evaluate
from tiebreak.release.events import events_of
from tiebreak.release.gate_results import Result, Verdict
from tiebreak.release.promotion import promote
from tiebreak.release.releases import Release
from tiebreak.release.states import Kind, NotInThisState, Stage
from tiebreak.store import tables
from tiebreak.store.database import Database
from tiebreak.store.keyed import shadow_hash, share_end
from tiebreak.store.reading import newest_as_of
from tiebreak.workflows import versions

CREW = 1  # the place of `crew_size` among the features


@pytest.fixture(scope="module")
def folder(module_database_urls: DatabaseUrls, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world's models and backtests are, once it is made."""
    found = tmp_path_factory.mktemp("world")

    async def make() -> None:
        db = await Database.open(module_database_urls.app, pool_size=4)
        await World.made(db, found)
        await db.close()

    run(make())
    return found


@pytest.fixture(scope="module")
def bundles(folder: Path, module_database_urls: DatabaseUrls) -> Mapping[str, Mapping[str, bytes]]:
    """The parts of models: sound, of shuffled labels, and of what imports alone have."""

    async def make() -> dict[str, Mapping[str, bytes]]:
        db = await Database.open(module_database_urls.app, pool_size=4)
        world = await World.opened(db, folder)
        made = {
            "sound": (await world.trained()).parts,
            "shuffled": (await world.trained(shuffled=True)).parts,
            "leaky": (await world.trained(LEAKY)).parts,
        }
        await db.close()
        return made

    return run(make())


@pytest.fixture
async def world(folder: Path, module_database_urls: DatabaseUrls) -> AsyncGenerator[World]:
    db = await Database.open(module_database_urls.app, pool_size=8)
    world = await World.opened(db, folder)
    yield world
    await db.close()
    forget = ("SET session_replication_role = replica", "DELETE FROM ml_shadow_scores")
    await execute(module_database_urls.admin, *forget)


@pytest.fixture
def sound(world: World, bundles: Mapping[str, Mapping[str, bytes]]) -> str:
    return world.bundled(dict(bundles["sound"]))


async def evaluated(
    world: World, release: Release, stage: Stage | None = Stage.PROMOTION
) -> Evaluated:
    return await evaluate(world.office, world.evidence, release.release_id, stage, actor="ann")


def blocking(found: Evaluated) -> dict[str, Verdict]:
    return {r.gate: r.verdict for r in found.results if r.verdict is not Verdict.PASS}


def gate(found: Evaluated, name: str) -> Result:
    return next(result for result in found.results if result.gate == name)


def telling(found: Evaluated) -> str:
    return "\n".join(f"{r.gate} {r.verdict}: {r.sentence}" for r in found.results)


async def test_a_sound_model_passes_against_rules_alone(world: World, sound: str) -> None:
    release = await world.proposed(sound)
    before = await evaluated(world, release)
    needed = {"volume", "labels", "errors", "floors", "replay", "pr_auc", "leakage", "latency"}
    assert needed <= blocking(before).keys()
    assert set(blocking(before).values()) == {Verdict.NO_EVIDENCE}
    assert all(r.hint for r in before.results if r.verdict is not Verdict.PASS)
    assert await world.shadow(release) == 0
    found = await evaluated(world, release)
    assert blocking(found) == {}, telling(found)
    assert found.is_passed
    assert gate(found, "pr_auc").detail["candidate"] > gate(found, "pr_auc").detail["production"]
    assert gate(found, "replay").detail == {
        "scores": 400, "decisions": 400, "elsewhere": 0, "sample": 400,
    }  # fmt: skip
    await approve(world.office, release.release_id, Stage.PROMOTION, approver="bob")


async def test_gates_by_what_was_known_long_ago_let_nobody_pass(
    world: World, sound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may choose the moment may look for one at which all gates pass."""
    office = world.office
    clock = await newest_as_of(office.db, NAME)
    assert clock is not None
    assert datetime.now(UTC) - clock > timedelta(days=5)  # it is a stream of the past

    async def asked(stage: Stage, known_by: datetime) -> evaluations.Evaluation:
        found = await evaluate(
            office, world.evidence, release.release_id, stage, actor="ann", known_by=known_by
        )
        assert found.is_passed, telling(found)
        assert found.evaluation is not None
        assert found.known_by == found.evaluation.known_by == known_by
        return found.evaluation

    release = await world.proposed(sound)
    await world.shadow(release)
    for stage in Stage:
        await asked(stage, clock - timedelta(days=2))
        with pytest.raises(evaluations.EvidenceOfThePast, match="known by 20") as caught:
            await approve(office, release.release_id, stage, approver="bob")
        assert caught.value.code == "evidence_of_the_past"
        assert f"tiebreak release gates {release.release_id}" in caught.value.hint
        with monkeypatch.context() as loose:
            loose.setattr(evaluations, "MOST_LEFT_OUT", timedelta(days=3))
            await approve(office, release.release_id, stage, approver="bob")
    with pytest.raises(evaluations.EvidenceOfThePast):
        await promote(office, release.release_id, author="ann", reason="test")
    with pytest.raises(evaluations.EvidenceOfThePast):
        await canary.start(office, release.release_id, actor="ann")
    await asked(Stage.PROMOTION, clock - timedelta(hours=23))
    await approve(office, release.release_id, Stage.PROMOTION, approver="bob")
    told = (await events_of(office.db, release.release_id))[-1].detail
    assert told["known_by"] == (clock - timedelta(hours=23)).isoformat()


async def test_reviews_that_were_given_later_do_not_count(world: World, sound: str) -> None:
    office = world.office
    clock = await newest_as_of(office.db, NAME)
    assert clock is not None
    release = await world.proposed(sound)
    await world.shadow(release)
    flip = await office.db.pool.fetchrow(_FLIP, release.policy_hash)
    review: dict[str, Any] = {"workflow": NAME, "ticket_id": flip["ticket_id"], "ordinal": 1}
    review |= {"reviewer": "ann", "band": flip["band"], "note": None}
    review |= {"given_at": clock - timedelta(hours=1), "received_at": datetime.now(UTC)}
    async with office.lane.unit() as unit:
        unit.add(tables.ml_feedback, [review])
    for known_by, counted in ((clock - timedelta(hours=2), 0), (clock, 1)):
        found = await evaluate(
            office, world.evidence, release.release_id, None, actor="ann", known_by=known_by
        )
        assert gate(found, "reviewed_flips").detail == {"count": counted}


async def test_what_is_kept_is_enough_to_judge_again(world: World, sound: str) -> None:
    release = await world.proposed(sound)
    await world.shadow(release)
    first = await evaluated(world, release)
    kept = await evaluations.newest(world.office.db, release.release_id, Stage.PROMOTION)
    assert kept is not None
    assert kept == first.evaluation
    results = kept.results
    assert results["plan_of"] == WORKFLOW.version
    assert results["plan"]["gates"]["replay"] == {"sample": 400}
    assert results["evidence"]["backtest"] == release.backtest_id
    assert results["evidence"]["bundle_digest"] == sound
    again = await evaluate(
        world.office, world.evidence, release.release_id, Stage.PROMOTION, actor="ann",
        known_by=datetime.fromisoformat(results["known_by"]),
    )  # fmt: skip
    assert again.told["seed"] == results["seed"]
    assert again.told["evidence"] == results["evidence"]

    def figures(told: Mapping[str, Any]) -> list[Any]:
        return [(g["gate"], g["verdict"], g["figure"]) for g in told["gates"]]

    assert figures(again.told) == figures(results)


async def test_gates_are_asked_as_of_a_moment(world: World, sound: str) -> None:
    release = await world.proposed(sound)
    await world.shadow(release)
    office, evidence = world.office, world.evidence

    async def at(moment: datetime) -> Evaluated:
        stage = Stage.PROMOTION
        return await evaluate(
            office, evidence, release.release_id, stage, actor="ann", known_by=moment
        )

    early = await at(LIVE_FROM + timedelta(days=12))
    assert blocking(early) == {"volume": Verdict.NO_EVIDENCE}
    assert gate(early, "volume").figure == 13 * LIVE_A_DAY
    assert gate(early, "labels").figure == 12 * LIVE_A_DAY  # the last day's are not mature
    assert (await at(NOW)).is_passed
    again = await at(LIVE_FROM + timedelta(days=12))
    assert again.told["evidence"] == early.told["evidence"]
    with pytest.raises(MomentToCome):
        await at(datetime.now(UTC) + timedelta(days=1))


async def test_shuffled_labels_are_stopped_by_pr_auc(
    world: World, bundles: Mapping[str, Mapping[str, bytes]]
) -> None:
    release = await world.proposed(world.bundled(dict(bundles["shuffled"])))
    await world.shadow(release)
    found = await evaluated(world, release)
    result = gate(found, "pr_auc")
    assert result.verdict is Verdict.FAIL, telling(found)
    assert result.figure is not None
    assert result.figure < -0.1
    assert not found.is_passed
    with pytest.raises(NotGated):
        await approve(world.office, release.release_id, Stage.PROMOTION, approver="bob")


async def test_a_model_that_crashes_on_some_tickets_is_stopped_by_its_errors(
    world: World, bundles: Mapping[str, Mapping[str, bytes]]
) -> None:
    parts = dict(bundles["sound"])
    parts[ONNX] = _crashing(parts[ONNX], CREW, 9.5)
    release = await world.proposed(world.bundled(parts))
    failed = await world.shadow(release)
    assert failed > 100
    found = await evaluated(world, release)
    result = gate(found, "errors")
    assert result.verdict is Verdict.FAIL
    assert result.detail["unscored"] == failed
    assert result.figure == pytest.approx(failed / 1_200)
    # as its worker does at once
    told = {"cause": "failed", "message": "Deciding failed: Fail."}
    await releases.tell(world.office, release, Kind.QUARANTINED, detail=told)
    found = await evaluated(world, release)
    assert "quarantine" in gate(found, "errors").sentence
    assert gate(found, "errors").verdict is Verdict.FAIL
    assert found.evaluation is None
    assert not found.is_passed
    # nor does it hide in a share that is asked for when it is started again
    await releases.tell(world.office, release, Kind.SHADOW_STARTED, detail={"share": 0.01})
    result = gate(await evaluated(world, release), "errors")
    assert result.verdict is Verdict.FAIL
    assert result.detail["unscored"] == failed
    assert result.detail["quarantines"] == ["Deciding failed: Fail."]
    assert "It was in quarantine before: Deciding failed: Fail." in result.sentence


async def test_of_a_share_every_ticket_that_it_selects_must_be_scored(
    world: World, sound: str
) -> None:
    end, key = share_end(0.5), world.keyring.sampling_key

    def is_out(ticket_id: str) -> bool:
        return shadow_hash(key, NAME, ticket_id) >= end

    ids = [f"t-{day}-{n}" for day in range(IMPORTED_DAYS, 60) for n in range(LIVE_A_DAY)]
    mine = [each for each in ids if not is_out(each)]
    whole = await world.proposed(sound, share=0.5)
    await world.shadow(whole, but=is_out)
    result = gate(await evaluated(world, whole), "errors")
    assert (result.verdict, result.detail["unscored"]) == (Verdict.PASS, 0)
    part = await world.proposed(None, LEAKY, share=0.5)
    left = set(mine[::10])
    await world.shadow(part, but=lambda each: is_out(each) or each in left)
    result = gate(await evaluated(world, part), "errors")
    assert (result.verdict, result.detail["unscored"]) == (Verdict.FAIL, len(left))


async def test_what_imports_alone_have_is_stopped_by_leakage(
    world: World, bundles: Mapping[str, Mapping[str, bytes]]
) -> None:
    release = await world.proposed(world.bundled(dict(bundles["leaky"])), LEAKY)
    await world.shadow(release)
    found = await evaluated(world, release)
    result = gate(found, "leakage")
    assert result.verdict is Verdict.FAIL, telling(found)
    assert result.figure == 1.0
    assert "without repair is +100%" in result.sentence
    assert result.detail["validation_auc"] > 0.99 > result.detail["live_auc"] + 0.1
    assert gate(found, "replay").verdict is Verdict.PASS  # its scores are what it says


async def test_a_score_that_the_policy_does_not_give_is_stopped_by_replay(
    world: World, sound: str
) -> None:
    release = await world.proposed(sound)
    await world.shadow(release, changed={"score": np.nextafter})
    result = gate(await evaluated(world, release), "replay")
    assert result.verdict is Verdict.FAIL
    assert result.figure == 400


async def test_imported_tickets_that_it_scores_too_do_not_thin_the_sample_out(
    world: World, sound: str
) -> None:
    release = await world.proposed(sound)
    await world.shadow(release, is_whole=True)
    found = await evaluated(world, release)
    assert blocking(found) == {}, telling(found)
    assert gate(found, "replay").detail == {
        "scores": 400, "decisions": 400, "elsewhere": 0, "sample": 400,
    }  # fmt: skip
    assert gate(found, "leakage").figure == pytest.approx(0, abs=0.05)


async def test_a_band_below_a_hard_floor_is_stopped(world: World, sound: str) -> None:
    release = await world.proposed(sound)
    await world.shadow(release, changed={"band": lambda band, _: min(band, 1)})
    result = gate(await evaluated(world, release), "floors")
    assert result.verdict is Verdict.FAIL
    assert result.figure == result.detail["floored"] > 0


async def test_a_candidate_without_productions_hard_rule_is_stopped(world: World) -> None:
    softer = RuleSet(rules=tuple(rule for rule in RULES.rules if not rule.hard))
    await versions.load(world.office.lane, WORKFLOW, softer, author="ann", reason="test")
    release = await world.proposed(None, rules_version=softer.version)
    await world.shadow(release)
    result = gate(await evaluated(world, release), "floors")
    assert result.verdict is Verdict.FAIL
    assert result.detail["floored"] > (result.figure or 0) > 0


async def test_altered_bytes_are_stopped_by_the_signature(
    world: World, sound: str, folder: Path
) -> None:
    release = await world.proposed(sound)
    await world.shadow(release)
    path = next(p for p in (folder / "artifacts").rglob(f"*{sound}*") if p.is_file())
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        found = await evaluated(world, release)  # although the library holds the model
    finally:
        path.write_bytes(whole)
    assert gate(found, "signature").verdict is Verdict.FAIL
    assert not found.is_passed


async def test_a_backtest_must_be_there_and_within_its_limits(world: World, sound: str) -> None:
    release = await world.proposed(sound)
    assert gate(await evaluated(world, release), "backtest").verdict is Verdict.PASS
    path = world.evidence.folder / f"{release.backtest_id}.json"
    path.rename(path.with_suffix(".away"))
    result = gate(await evaluated(world, release), "backtest")
    assert result.verdict is Verdict.NO_EVIDENCE
    assert "tiebreak backtest run" in result.hint
    path.with_suffix(".away").rename(path)
    for name, changed, verdict in (
        ("tickets", 50, Verdict.NO_EVIDENCE),
        ("flips", 900, Verdict.FAIL),
        ("missed", {"before": 50, "after": 60}, Verdict.FAIL),
        ("needless_reviews", {"before": 100, "after": 300}, Verdict.FAIL),
    ):
        figures = {**BACKTEST["figures"], name: changed}
        release = await world.proposed(sound, backtest={**BACKTEST, "figures": figures})
        assert gate(await evaluated(world, release), "backtest").verdict is verdict, name


async def test_a_backtest_without_its_seal_is_no_evidence(
    world: World, sound: str, module_database_urls: DatabaseUrls
) -> None:
    figures = {**BACKTEST["figures"], "tickets": 2_001}
    release = await world.proposed(sound, backtest={**BACKTEST, "figures": figures})
    assert gate(await evaluated(world, release), "backtest").verdict is Verdict.PASS
    edit = f"""
        UPDATE system_audit SET at = at + interval '1 second'
        WHERE detail::json ->> 'backtest' = '{release.backtest_id}'
    """
    await execute(module_database_urls.admin, "SET session_replication_role = replica", edit)
    result = gate(await evaluated(world, release), "backtest")
    assert result.verdict is Verdict.NO_EVIDENCE
    assert "No sealed entry" in result.sentence


async def test_rules_of_another_version_are_gated_by_bands(world: World) -> None:
    release = await world.proposed(None, LEAKY)
    await world.shadow(release)
    found = await evaluated(world, release)
    assert blocking(found) == {}, telling(found)
    assert gate(found, "flips").figure == 0
    assert gate(found, "pr_auc").figure == 0


async def test_the_first_policy_ever_is_gated_against_its_own_rules(
    db: Database, tmp_path: Path, bundles: Mapping[str, Mapping[str, bytes]]
) -> None:
    world = await World.made(db, tmp_path, is_installed=False)
    release = await world.proposed(world.bundled(dict(bundles["sound"])))
    assert release.base_seq == 0
    await world.shadow(release)
    found = await evaluated(world, release)
    assert blocking(found) == {}, telling(found)
    assert gate(found, "replay").detail["decisions"] == 0
    assert gate(found, "pr_auc").detail["candidate"] > gate(found, "pr_auc").detail["production"]


async def test_only_decisions_of_todays_production_are_compared(
    db: Database, tmp_path: Path, bundles: Mapping[str, Mapping[str, bytes]]
) -> None:
    world = await World.made(db, tmp_path)
    shuffled, sound = (world.bundled(dict(bundles[name])) for name in ("shuffled", "sound"))
    first, second = await world.proposed(sound), await world.proposed(shuffled)
    await world.shadow(first)
    await world.shadow(second)
    await evaluated(world, first)
    await approve(world.office, first.release_id, Stage.PROMOTION, approver="bob")
    await promote(world.office, first.release_id, author="ann", reason="test")
    moved = await evaluated(world, second)  # against what was there when it was proposed
    assert gate(moved, "current").verdict is Verdict.FAIL
    assert moved.evaluation is None
    third = await world.proposed(shuffled)
    assert gate(await evaluated(world, third), "volume").figure == 0
    await world.decide_again(first.policy_hash)
    found = await evaluated(world, third)
    assert gate(found, "volume").figure == 1_200
    assert gate(found, "pr_auc").verdict is Verdict.FAIL
    assert gate(found, "pr_auc").detail["production"] > 0.6  # its score, not its rules' points
    assert gate(found, "latency").detail["times"] is not None


async def test_a_release_that_is_not_in_shadow_is_not_gated(world: World, sound: str) -> None:
    release = await world.proposed(sound)
    await releases.tell(world.office, release, Kind.SHADOW_STOPPED)
    with pytest.raises(NotInThisState):
        await evaluated(world, release)


async def test_slices_and_limits_come_from_the_version_in_production(
    world: World, sound: str
) -> None:
    loose = WORKFLOW.release.model_copy(update={"canary": "required"})
    version = WORKFLOW.model_copy(update={"release": loose, "slices": ()})
    await versions.load(world.office.lane, version, RULES, author="ann", reason="test")
    release = await world.proposed(sound, version)
    await world.shadow(release)
    found = await evaluated(world, release, None)
    assert found.stage is Stage.PROMOTION
    assert "Of 3 slices" in gate(found, "slices").sentence
    assert found.told["plan_of"] == WORKFLOW.version


def _crashing(data: bytes, column: int, above: float) -> bytes:
    """The same graph, which reads beyond an array where a feature lies above a value."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    (output,) = graph.output
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == output.name:
                node.output[place] = "sound_margin"
    constants = {
        "column": np.array([column], dtype=np.int64),
        "above": np.array([above], dtype=np.float32),
        "far": np.array([99], dtype=np.int64),
        "nothing": np.array([0.0], dtype=np.float32),
        "flat": np.array([-1], dtype=np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    graph.node.extend(
        [
            helper.make_node("Gather", [graph.input[0].name, "column"], ["own"], axis=1),
            helper.make_node("Greater", ["own", "above"], ["is_above"]),
            helper.make_node("Cast", ["is_above"], ["one"], to=TensorProto.INT64),
            helper.make_node("Mul", ["one", "far"], ["index"]),
            helper.make_node("Gather", ["nothing", "index"], ["zero"], axis=0),
            helper.make_node("Shape", ["sound_margin"], ["shape"]),
            helper.make_node("Reshape", ["zero", "shape"], ["shaped"]),
            helper.make_node("Add", ["sound_margin", "shaped"], [output.name]),
        ]
    )
    return model.SerializeToString()


_FLIP = """
    SELECT s.ticket_id, s.band FROM ml_shadow_scores s
    JOIN decisions d USING (as_of, workflow, ticket_id, revision)
    WHERE s.policy_hash = $1 AND d.ordinal = 1 AND d.band <> s.band
    ORDER BY s.as_of, s.ticket_id LIMIT 1
"""
