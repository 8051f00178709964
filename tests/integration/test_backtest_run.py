"""Backtests on a real database: what they count, and that nothing but the question decides it."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from tests.databases import DatabaseUrls, run
from tests.functional.serving import settings_for

from tiebreak.access.persons import ensure_person
from tiebreak.audit.lanes import Lane
from tiebreak.backtest import contexts, window
from tiebreak.backtest.flips import REVIEW
from tiebreak.backtest.plans import Request, SegmentUnfit
from tiebreak.backtest.run import AlreadyRunning, Runner
from tiebreak.backtest.window import WindowBeyondHistory, WindowEmpty
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.signing import BundleKeys
from tiebreak.core.decide import decide_stored
from tiebreak.core.policy import Policy
from tiebreak.core.stored import StoredTicket
from tiebreak.core.tickets import submission, ticket_schema
from tiebreak.core.workflow import HistoryFeature, Workflow
from tiebreak.decisions.service import DecisionService
from tiebreak.ingest.importer import Files, import_history
from tiebreak.ingest.simulator import simulate
from tiebreak.registry import records
from tiebreak.registry.candidates import Changes, KnobMistaken, candidate
from tiebreak.registry.policies import PolicyLibrary, Recipe, assemble
from tiebreak.registry.proposals import propose
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.store.erasure import erase
from tiebreak.training.labels import read_labels
from tiebreak.workflows import versions
from tiebreak.workflows.check import check_folder

ROOT = Path(__file__).parents[2]
DAYS = 300
# Long enough ago that no label becomes mature between two runs.
END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=90)
START = END - timedelta(days=DAYS)
LOCATE, RULES = check_folder(ROOT / "workflows" / "locate").sound()
LIVE = 20
KEYRING = Keyring(
    seal_key_id="k1",
    seal_keys={"k1": b"seal-key-for-tests-seal-key-for-"},
    bundle_signing_key_id="k1",
    bundle_keys={"k1": b"bundle-key-for-tests-bundle-key-"},
    entity_key=b"entity-key-for-tests-entity-key-",
    sampling_key=b"sampling-key-for-tests-sampling-",
)
BUNDLE_KEYS = BundleKeys(KEYRING.bundle_keys, KEYRING.bundle_signing_key_id)


@pytest.fixture(scope="module")
def settings(
    module_database_urls: DatabaseUrls, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """`locate` with simulated history, its rules in production, and some live decisions."""
    found = settings_for(module_database_urls, tmp_path_factory.mktemp("data"))
    run(_prepare(found))
    return found


async def _prepare(settings: Settings) -> None:
    db = await Database.of(settings)
    lane = await Lane.open(db, "tests", KEYRING)
    async with lane.unit() as unit:
        for person in ("ann", "bob"):
            await ensure_person(unit, person, actor="tests")
    await versions.load(lane, LOCATE, RULES, author="ann", reason="first")
    simulation = simulate(3, 1_500, START, DAYS).known_by(END)
    tickets, events = simulation.write(settings.data_dir)
    files = Files([tickets], [events])
    await import_history(db, KEYRING, LOCATE, files, actor="tests", now=END)
    library = PolicyLibrary(db, ArtifactStore.of(settings), BUNDLE_KEYS)
    proposal = await propose(db, library, KEYRING, "locate", ordinal=None, digest=None)
    await records.install(
        lane, KEYRING, proposal.parts, author="ann", approver="bob", reason="first"
    )
    service = await DecisionService.start(settings, KEYRING)
    schema = ticket_schema(LOCATE)
    for i, row in enumerate(simulation.tickets.tail(LIVE).rows(named=True)):
        values = schema.read(row)
        assert isinstance(values, dict)
        await service.decide("locate", submission(schema, f"live-{i}", None, values), "ann")
        if i == 0:  # a correction: only the newest revision counts
            values = {**values, "crew_size": 77}
            await service.decide("locate", submission(schema, "live-0", None, values), "ann")
    await service.drain()
    async with lane.unit() as unit:
        await erase(unit, "locate", f"live-{LIVE - 1}", actor="ann", reason="test")
    await db.close()


@dataclass
class Bench:
    """A runner, and ways to ask it."""

    db: Database
    settings: Settings
    runner: Runner
    library: PolicyLibrary

    async def request(self, changes: Changes, **more: Any) -> Request:
        found = (await records.current(self.db, KEYRING))["locate"]
        assert isinstance(found, records.ReleaseRecord)
        parts = await self.library.parts(found.policy_hash)
        recipe = await candidate(self.db, self.library, self.artifacts, "locate", parts, changes)
        asked = Request("locate", recipe, await self.library.recipe(parts), None, None, ())
        return replace(asked, **more)

    async def run(self, request: Request, jobs: int = 1) -> Mapping[str, Any]:
        made = await self.runner.run(
            request, jobs=jobs, minutes_a_review=6.0, progress=lambda _step, _share: None
        )
        return made.evidence

    @property
    def artifacts(self) -> ArtifactStore:
        return ArtifactStore.of(self.settings)


@pytest.fixture
async def bench(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Bench]:
    monkeypatch.setattr(window, "SPAN_TICKETS", 200)
    db = await Database.of(settings)
    lane = await Lane.open(db, "tests", KEYRING)
    library = PolicyLibrary(db, ArtifactStore.of(settings), BUNDLE_KEYS)
    yield Bench(db, settings, Runner(db, lane, settings, BUNDLE_KEYS, "ann"), library)
    await db.close()


LOWER = Changes(knobs={"points.high": "34", "points.medium": "20", "review_from": "high"})


def policy_of(recipe: Recipe) -> Policy:
    return Policy.build(recipe.workflow, recipe.rule_set)


async def test_the_same_policy_flips_nothing(bench: Bench) -> None:
    request = await bench.request(LOWER)
    assert request.production is not None
    evidence = await bench.run(replace(request, candidate=request.production))
    figures = evidence["figures"]
    assert figures["tickets"] == 1_500 + LIVE - 1
    assert evidence["skipped"] == {"erased": 1}
    assert evidence["baseline"]["stored"] == LIVE - 1
    assert evidence["baseline"]["recomputed"] == 1_500
    assert (figures["flips"], figures["rerouted"]) == (0, 0)
    assert figures["reviews"]["change"] == 0
    assert evidence["policy_hash"] == evidence["baseline"]["production"]
    assert not any(evidence["examples"].values())


async def test_a_changed_policy_flips_what_a_direct_computation_says(bench: Bench) -> None:
    request = await bench.request(LOWER, by=("ticket_type",))
    evidence = await bench.run(request, jobs=2)
    schema = ticket_schema(LOCATE)
    async with bench.db.connection() as conn:
        rows = await conn.fetch(
            "SELECT * FROM tickets WHERE content IS NOT NULL"
            " AND NOT (ticket_id = 'live-0' AND revision = 1)"
        )
    tickets = [StoredTicket.from_row(row, schema) for row in rows]
    assert request.production is not None
    old, new = (
        decide_stored(tickets, schema, policy_of(recipe))
        for recipe in (request.production, request.candidate)
    )
    known_by = datetime.fromisoformat(evidence["known_by"])
    labels = await read_labels(bench.db, LOCATE, known_by=known_by)
    bands = [[0] * 4 for _ in range(4)]
    caught, needless, raised = 0, 0, set()
    moves = zip(
        tickets,
        *(d.arbitration.band.tolist() for d in (old, new)),
        *(d.arbitration.route.tolist() for d in (old, new)),
        strict=True,
    )
    for ticket, before, after, route_before, route_after in moves:
        bands[before][after] += 1
        label = labels.of(ticket.ticket_id, ticket.as_of)
        was, now = (
            b >= 2 or r == REVIEW for b, r in ((before, route_before), (after, route_after))
        )
        caught += label is not None and label.value and now and not was
        needless += label is not None and not label.value and route_after == REVIEW
        if after > before:
            raised.add(ticket.ticket_id)
    figures = evidence["figures"]
    assert figures["bands"] == bands
    assert figures["flips"] == figures["raised"] == len(raised) > 20
    assert figures["newly_caught"] == caught > 0
    assert figures["needless_reviews"]["after"] == needless > 0
    reviews = sum(route == REVIEW for route in new.arbitration.route.tolist())
    assert figures["reviews"]["after"] == reviews
    assert figures["reviewer_hours"]["after"] == pytest.approx(reviews / 10, abs=0.01)
    ties = [int(each.arbitration.is_tie.sum()) for each in (old, new)]
    assert [figures["ties"][when] for when in ("before", "after")] == ties
    assert figures["cost"] is None  # the workflow names no costs
    assert evidence["before_valid_from"] == 0  # there is no model
    examples = evidence["examples"]["raised"]
    assert len(examples) == 10
    assert {each["ticket_id"] for each in examples} <= raised
    parts = evidence["segments"]["ticket_type"]
    assert sum(part["tickets"] for part in parts) == figures["tickets"]
    assert sum(part["flips"] for part in parts) == figures["flips"]
    assert sum(part["flips"] for part in evidence["months"]) == figures["flips"]


@pytest.mark.full
async def test_more_processes_and_other_spans_find_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = await bench.request(LOWER, by=("city", "is_boring"))
    serial = await bench.run(request, jobs=1)
    monkeypatch.setattr(window, "SPAN_TICKETS", 130)
    parallel = await bench.run(request, jobs=3)
    assert timeless(serial) == timeless(parallel)


def timeless(evidence: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in evidence.items() if k != "known_by"}


KILLED = """
import asyncio, pickle, sys
from pathlib import Path
def main():
    from tests.integration.test_backtest_run import go_on
    asyncio.run(go_on(*pickle.loads(Path(sys.argv[1]).read_bytes())))
if __name__ == "__main__":
    main()
"""


async def go_on(settings: Settings, request: Request) -> None:
    """Runs a request that another process handed over."""
    window.SPAN_TICKETS = 40
    db = await Database.of(settings)
    lane = await Lane.open(db, "tests", KEYRING)
    runner = Runner(db, lane, settings, BUNDLE_KEYS, "ann")
    await runner.run(request, jobs=2, minutes_a_review=6.0, progress=lambda _step, _share: None)


@pytest.mark.full
async def test_a_killed_run_goes_on_and_finds_the_same(bench: Bench, tmp_path: Path) -> None:
    request = await bench.request(LOWER, by=("ticket_type",), since=START + timedelta(days=1))
    handed = tmp_path / "request"
    handed.write_bytes(pickle.dumps((bench.settings, request)))
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    folder = bench.runner.evidence.folder / "unfinished" / request.key
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(handed)), env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    end = time.monotonic() + 60
    while len(list(folder.glob("span-*.json"))) < 3:
        assert process.returncode is None
        assert time.monotonic() < end
        await asyncio.sleep(0.002)
    with pytest.raises(AlreadyRunning):
        await bench.run(request)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    await process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, workers, 30)
    assert alive == []
    done = len(list(folder.glob("span-*.json")))
    plan = orjson.loads((folder / "plan.json").read_bytes())
    assert 3 <= done < len(plan["spans"])
    resumed = await bench.runner.run(
        request, jobs=2, minutes_a_review=6.0, progress=lambda _step, _share: None
    )
    assert resumed.run["spans_of_earlier_runs"] >= done
    assert not folder.exists()
    assert timeless(resumed.evidence) == timeless(await bench.run(request))


def with_window(days: float) -> Workflow:
    """`locate` with one more history feature, and a rule's worth of difference."""
    extra = HistoryFeature(
        name="excavator_new",
        entity="excavator",
        aggregate="count",
        where="crew_size > 3",
        window_days=days,
    )
    return LOCATE.model_copy(update={"features": (*LOCATE.features, extra)})


async def test_recomputed_context_is_what_admission_stored(bench: Bench) -> None:
    assert await contexts.holds_all(bench.db, LOCATE)
    assert not await contexts.holds_all(bench.db, with_window(7))
    until = datetime.now(UTC) + timedelta(days=1)
    found = await contexts.recompute(bench.db, LOCATE, until=until)
    assert found.erased == 1
    async with bench.db.connection() as conn:
        rows = await conn.fetch(
            "SELECT ticket_id, context FROM tickets"
            " WHERE workflow = 'locate' AND content IS NOT NULL"
            " ORDER BY as_of, ticket_id"
        )
    assert found.frame["ticket_id"].to_list() == [row["ticket_id"] for row in rows]
    names = found.frame.columns[3:]
    assert len(names) > 10
    for computed, row in zip(found.frame.select(names).rows(named=True), rows, strict=True):
        known = {name: value for name, value in computed.items() if value is not None}
        assert known == orjson.loads(row["context"])


@pytest.mark.full
async def test_a_new_history_feature_is_computed_from_the_log_of_all_history(
    bench: Bench, tmp_path: Path
) -> None:
    changed = with_window(9)
    twin = changed.model_copy(update={"name": "twin"})
    files = Files(
        [bench.settings.data_dir / "simulated_tickets.parquet"],
        [bench.settings.data_dir / "simulated_events.parquet"],
    )
    await import_history(bench.db, KEYRING, twin, files, actor="tests", now=END)
    until = START + timedelta(days=DAYS)
    found = (await contexts.recompute(bench.db, changed, until=until)).frame
    stored = (await contexts.recompute(bench.db, twin, until=until)).frame
    assert found.equals(stored)
    async with bench.db.connection() as conn:
        rows = await conn.fetch(
            "SELECT context FROM tickets WHERE workflow = 'twin' ORDER BY as_of, ticket_id"
        )
    names = found.columns[3:]
    assert [orjson.loads(row["context"]) for row in rows] == [
        {k: v for k, v in row.items() if v is not None}
        for row in found.select(names).rows(named=True)
    ]
    request = await bench.request(LOWER)
    recipe = Recipe.of(changed, RULES, request.candidate.parts)
    evidence = await bench.run(replace(request, candidate=recipe))
    assert evidence["context"] == "recomputed"
    assert evidence["figures"]["flips"] == 0  # nothing reads the new feature


async def test_a_candidate_that_cannot_be_is_refused(bench: Bench) -> None:
    for knobs in ({"points.hihg": "3"}, {"points.high": "1"}, {"audit_share": "2"}):
        with pytest.raises(KnobMistaken):
            await bench.request(Changes(knobs=knobs))
    for by in ("caller", "members", "citty"):
        with pytest.raises(SegmentUnfit):
            await bench.run(await bench.request(LOWER, by=(by,)))
    with pytest.raises(WindowBeyondHistory):
        await bench.run(await bench.request(LOWER, until=START - timedelta(days=9)))
    with pytest.raises(WindowEmpty):
        await bench.run(await bench.request(LOWER, since=END, until=START))
    assert list((bench.runner.evidence.folder / "unfinished").glob("*")) == []


async def test_a_recipe_keeps_its_versions(bench: Bench) -> None:
    recipe = (await bench.request(LOWER)).candidate
    built = assemble(recipe, bench.artifacts, BUNDLE_KEYS).policy
    assert built.hash == recipe.parts.hash
