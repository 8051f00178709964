"""Seconds from the call of a demotion to the last word of the demoted policy, under load.

The clock starts before the call is sent, and stops when the last decision by that policy was
stamped or the last answer by it reached a client, whichever is later. Both policies have the model
of 300 trees; two workers decide under load. Each trial puts the changed policy into production,
waits until all follow, and demotes it over HTTP; that takes three seconds and more, so the whole
takes some minutes beside a stage to prepare.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from tests.releases import put

from bench.load import POLICIES_SECONDS, Load
from bench.stack import tiebreak, up
from bench.stage import ROOT, RULES, stage
from tiebreak.access.persons import ensure_person
from tiebreak.cli.session import Session, opened
from tiebreak.core.workflow import Knobs, RuleSet
from tiebreak.embedded.stack import stack
from tiebreak.registry import records
from tiebreak.release.demotion import Target, demote
from tiebreak.settings import Settings
from tiebreak.store.database import Database
from tiebreak.workflows import versions
from tiebreak.workflows.check import check_folder

TRIALS = 100
TOLD_EACH = 10  # trials
WORKERS = 2
CONNECTIONS = 16
FOLLOWED_SECONDS = 0.5  # nobody decided by the old policy for so long
LOOKS = 60  # for that, before it counts as hung
GOAL_SECONDS = 1.0
AUTHOR, APPROVER = "bench", "bench-approver"


@dataclass(frozen=True)
class Sides:
    """Who talks to the API, and the policies that take turns."""

    engineer: httpx.Client
    approver: str  # a key
    workflow: str
    policy: str  # that is demoted
    before: str
    answers: Path  # when the last answer by each policy reached a client

    def forward(self) -> None:
        """Put the policy that will be demoted into production."""
        path = f"/v1/releases/production/{self.workflow}/rollback"
        body = {"policy_hash": self.policy, "reason": "trial"}
        headers = {"X-Approval": f"Bearer {self.approver}"}
        self.engineer.post(path, json=body, headers=headers).raise_for_status()

    def demote(self) -> float:
        """Demote it; when the call was sent, in Unix seconds."""
        path = f"/v1/releases/production/{self.workflow}/demote"
        called = time.time()
        response = self.engineer.post(path, json={"reason": "trial"})
        response.raise_for_status()
        if response.json()["policy_hash"] != self.before:
            raise RuntimeError("it went back to another policy")
        return called


def run() -> dict[str, Any]:
    """The seconds of all trials, and whether the worst is below the goal."""
    staged = stage()
    before, policy = prepared(staged.data_dir, staged.workflow)
    with up(staged.data_dir, WORKERS) as running:
        keys = {
            role: tiebreak(
                *(staged.data_dir, WORKERS, "keys", "create", "--person", person, "--role", role)
            )["key"]
            for person, role in (
                (AUTHOR, "ml_engineer"),
                (APPROVER, "approver"),
                (AUTHOR, "service"),
            )
        }
        load = Load(
            port=running.port,
            path=f"/v1/workflows/{staged.workflow}/decisions",
            fields_file=str(staged.fields_file),
            connections=CONNECTIONS,
            seconds=24 * 3600,
            id_prefix=f"demote-{time.time_ns()}",
            headers={"Authorization": f"Bearer {keys['service']}"},
            policies_file=str(staged.data_dir / "answers.json"),
        )
        headers = {"Authorization": f"Bearer {keys['ml_engineer']}"}
        with (
            httpx.Client(base_url=running.url, headers=headers, timeout=30) as engineer,
            stack(Settings(data_dir=staged.data_dir)) as services,
            loaded(load),
        ):
            url = services.settings.database.url
            assert url is not None
            answers = Path(load.policies_file)
            sides = Sides(engineer, keys["approver"], staged.workflow, policy, before, answers)
            found = asyncio.run(trials(url.get_secret_value(), sides, TRIALS))
    worst = max(found)
    return {
        "workers": WORKERS,
        "connections": CONNECTIONS,
        "policy": staged.policy,
        "trials": len(found),
        "seconds": {
            "p50": round(statistics.median(found), 3),
            "p99": round(statistics.quantiles(found, n=100)[98], 3),
            "worst": round(worst, 3),
        },
        "goal_seconds": GOAL_SECONDS,
        "is_reached": worst < GOAL_SECONDS,
    }


async def trials(url: str, sides: Sides, count: int) -> list[float]:
    """The seconds of this many trials."""
    db = await Database.open(url, 2)
    found: list[float] = []
    try:
        for number in range(1, count + 1):
            found.append(await trial(db, sides))
            if number % TOLD_EACH == 0:
                told = f"{number} of {count} trials, at worst {max(found):.3f} s"
                print(told, file=sys.stderr, flush=True)
        return found
    finally:
        await db.close()


async def trial(db: Database, sides: Sides) -> float:
    """Seconds from the call of a demotion to the last word of the demoted policy."""
    await asyncio.to_thread(sides.forward)
    await _followed(db, sides.workflow, sides.policy)
    called = await asyncio.to_thread(sides.demote)
    await _followed(db, sides.workflow, sides.before)
    await asyncio.sleep(2 * POLICIES_SECONDS)  # until the load has written what it received
    decided = await db.pool.fetchval(_LAST, sides.workflow, sides.policy)
    answered = json.loads(sides.answers.read_text())[sides.policy]
    return max(0.0, decided.timestamp() - called, answered - called)


async def _followed(db: Database, workflow: str, policy: str) -> None:
    """Wait until only this policy decides, and for a while has."""
    found: list[str] = []
    for _ in range(LOOKS):  # no clock: a machine that stood still has not failed to follow
        await asyncio.sleep(FOLLOWED_SECONDS)
        rows = await db.pool.fetch(_RECENT, workflow, FOLLOWED_SECONDS)
        found = [row["policy_hash"] for row in rows]
        if found == [policy]:
            return
    raise TimeoutError(f"only {policy} should decide, not {found}")


@contextmanager
def loaded(load: Load) -> Generator[None]:
    """The load in a process of its own for as long as the block runs."""
    command = [sys.executable, "-m", "bench.load", json.dumps(asdict(load))]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("the load ended early")
    finally:
        process.terminate()
        process.wait()


def prepared(data_dir: Path, workflow: str) -> tuple[str, str]:
    """Bring a changed policy into production and back; the hash of the one before, and its own."""
    with stack(Settings(data_dir=data_dir)) as services:

        async def work() -> tuple[str, str]:
            async with opened(services, AUTHOR) as session:
                return await _promoted(session, workflow)

        return asyncio.run(work())


async def _promoted(session: Session, workflow: str) -> tuple[str, str]:
    async with session.lane.unit() as unit:
        for person in (AUTHOR, APPROVER):
            await ensure_person(unit, person, actor=AUTHOR)
    now = (await records.current(session.db, session.keyring))[workflow]
    assert isinstance(now, records.ReleaseRecord)
    parts = await session.library().parts(now.policy_hash)
    config, rules = check_folder(ROOT / "workflows" / workflow).sound()
    changed = config.model_copy(update={"knobs": Knobs(audit_share=0.5)})
    few = RuleSet(rules=rules.rules[:RULES])
    await versions.load(session.lane, changed, few, author=AUTHOR, reason="benchmark")
    made = await put(
        session.db,
        session.lane,
        session.keyring,
        replace(parts, workflow_version=changed.version, rules_version=few.version),
        author=AUTHOR,
        approver=APPROVER,
        artifacts=session.settings.artifacts_dir,
    )
    await demote(
        session.office(), workflow, Target.PREVIOUS, seq=made.seq, author=AUTHOR, reason="benchmark"
    )
    return now.policy_hash, made.policy_hash


_LAST = "SELECT max(decided_at) FROM decisions WHERE workflow = $1 AND policy_hash = $2"
_RECENT = """
    SELECT DISTINCT policy_hash FROM decisions
    WHERE workflow = $1 AND decided_at > now() - make_interval(secs => $2)
"""
