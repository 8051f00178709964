"""Over HTTP alone: the task worker backtests a change, and it comes into production."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import psutil
import pytest
from tests import releases as ways
from tests.candidates import GATES, LIVE_FROM, NAME, PLAN, RULES, WORKFLOW, World
from tests.databases import DatabaseUrls, run
from tests.functional.places import Place
from tests.functional.serving import serving, settings_for

from tiebreak.access.acts import ACCESS
from tiebreak.access.roles import Role
from tiebreak.backtest.supervising import MODULE
from tiebreak.core.release_plan import BacktestLimits
from tiebreak.settings import Keyring, RedisSettings, Settings
from tiebreak.store.database import Database
from tiebreak.workflows import versions

BASE = "/v1/releases"
RUNS = f"{BASE}/backtests"
DECISIONS = f"/v1/workflows/{NAME}/decisions"
WHY = {"reason": "test"}
SECONDS = 80.0
WORKER = ("celery", "-A", "tiebreak.tasks.app", "worker", "--pool", "threads")
SCORER = ("tiebreak.release.shadow_worker", "--release")
NOBODYS = "4f0f2a68-6d3c-4a4e-9f3c-0d6f6a1c7b21"

# A first model changes much of what few rules say.
BACKTEST = BacktestLimits(tickets=100, days=1, flips=1, missed=10, needless=10, hours=10, cost=10)
WIDE = WORKFLOW.model_copy(
    update={
        "release": PLAN.model_copy(
            update={"gates": GATES.model_copy(update={"backtest": BACKTEST})}
        )
    }
)
FILES = {
    "workflow.yaml": f"""
name: {NAME}
title: Trenches
time: opened_at
fields:
  opened_at: {{type: timestamp, required: true}}
  depth: {{type: number}}
  urgent: {{type: boolean}}
""",
    "rules.yaml": """
rules:
  deep: {when: depth > 3, effect: points, points: 30, message: Deep.}
""",
}

Told = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """A place with the world of candidates in it, and a queue of its own."""

    place: Place
    settings: Settings
    model: str

    def client(self, url: str, person: str, *roles: Role) -> httpx.Client:
        """A client of a person who has these roles."""
        options = [word for role in roles for word in ("--role", str(role))]
        key = self.place.json("keys", "create", "--person", person, *options)["key"]
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=url, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def scene(
    module_database_urls: DatabaseUrls, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Scene:
    queue = valkey_url.rpartition("/")[0] + "/11"
    place = Place.made(tmp_path_factory.mktemp("place"), module_database_urls, queue)
    settings = settings_for(place.urls, place.folder / "data")

    async def make() -> str:
        db = await Database.of(settings)
        world = await World.made(db, settings.data_dir, Keyring.load(settings))
        digest = world.bundled((await world.trained()).parts)
        office = world.office
        await versions.load(office.lane, WIDE, RULES, author="ann", reason="test")
        parts = replace(world.rules, workflow_version=WIDE.version)
        await ways.put(db, office.lane, world.keyring, parts)
        await world.decide_again(parts.hash)
        await db.close()
        return digest

    address = RedisSettings.model_validate({"url": queue})
    return Scene(place, settings.model_copy(update={"redis": address}), run(make()))


@pytest.fixture(scope="module")
def url(scene: Scene) -> Generator[str]:
    with serving(scene.settings, Keyring.load(scene.settings)) as (address, _):
        yield address


@pytest.fixture
def ann(scene: Scene, url: str) -> Generator[httpx.Client]:
    with scene.client(url, "ann", Role.ML_ENGINEER) as client:
        yield client


@pytest.fixture
def worker(scene: Scene) -> Generator[subprocess.Popen[bytes]]:
    process = started(scene)
    yield process
    process.kill()
    process.wait()


def started(scene: Scene, **more: str) -> subprocess.Popen[bytes]:
    environment = scene.place.environment | more
    return subprocess.Popen([sys.executable, "-m", *WORKER], env=environment)


def ok(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    return response.json()


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def until(client: httpx.Client, path: str, holds: Callable[[Told], bool]) -> Told:
    deadline = time.monotonic() + SECONDS
    while not holds(told := ok(client.get(path))):
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    return told


def has_ended(told: Told) -> bool:
    return told["state"] not in ("queued", "running")


def notes(scene: Scene, action: str) -> list[Told]:
    """What the journal says of this, newest first."""
    return scene.place.json("audit", "list", "--action", action)["entries"]


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_model_goes_all_the_way_into_production_over_http(
    scene: Scene, url: str, ann: httpx.Client, worker: subprocess.Popen[bytes]
) -> None:
    sender = scene.client(url, "sender", Role.SERVICE)
    fields = {"opened_at": "2026-03-02T14:30:00Z", "depth": 1.0, "crew": 3, "method": "hand"}
    before = ok(sender.post(DECISIONS, json={"ticket_id": "before", "fields": fields}))

    asked = ok(ann.post(RUNS, json={"workflow": NAME, "bundle": scene.model[:12]}), 202)
    assert (asked["state"], asked["author"], asked["by"]) == ("queued", "ann", ["method"])
    assert [each["part"] for each in asked["changes"]] == ["bundle_digest"]
    done = until(ann, f"{RUNS}/{asked['run_id']}", has_ended)
    assert (done["state"], done["error"]) == ("finished", None)
    assert done["evidence"]["policy_hash"] == asked["policy_hash"]
    assert done["evidence"]["figures"]["tickets"] > 2_000
    assert scene.place.json("backtest", "show", done["backtest"])["evidence"] == done["evidence"]
    (ended, *_), (begun, *_) = notes(scene, "backtest.ended"), notes(scene, "backtest.asked")
    assert (begun["actor"], begun["subject"]) == ("ann", f"{NAME}/{asked['policy_hash']}")
    assert (ended["detail"]["run"], ended["detail"]["backtest"]) == (
        *(asked["run_id"], done["backtest"]),
    )

    release = ok(ann.post(BASE, json={"backtest": done["backtest"], **WHY}))
    way = f"{BASE}/{release['release_id']}"
    since = LIVE_FROM - timedelta(minutes=1)
    ok(ann.post(f"{way}/shadow/start", json={"since": since.isoformat()}))
    scorer = subprocess.Popen(
        [sys.executable, "-m", *SCORER, release["release_id"]], env=scene.place.environment
    )
    try:
        until(ann, f"{way}/shadow", lambda told: told["scored"] >= 1_201)
    finally:
        scorer.kill()
        scorer.wait()
    gates = ok(ann.post(f"{way}/gates", json={"stage": "promotion"}))
    told = [(g["gate"], g["sentence"]) for g in gates["results"]["gates"] if g["verdict"] != "pass"]
    assert (gates["is_passed"], told) == (True, [])
    refused(ann.post(f"{way}/promote", json=WHY), 409, "not_approved")
    with scene.client(url, "ann", Role.APPROVER) as own:
        refused(own.post(f"{way}/approve", json={"stage": "promotion"}), 403, "four_eyes")
    with scene.client(url, "bob", Role.APPROVER) as bob:
        ok(bob.post(f"{way}/approve", json={"stage": "promotion"}))
    record = ok(ann.post(f"{way}/promote", json=WHY))
    assert (record["author"], record["approver"]) == ("ann", "bob")

    deadline, number = time.monotonic() + 20, 0
    while True:  # every worker follows within a second
        ticket = {"ticket_id": f"after-{number}", "fields": fields}
        after = ok(sender.post(DECISIONS, json=ticket))
        if after["policy_hash"] != before["policy_hash"]:
            break
        assert time.monotonic() < deadline
        number += 1
        time.sleep(0.05)
    assert (before["policy_hash"], before["model"]["status"]) == (asked["production"], "absent")
    assert after["policy_hash"] == record["policy_hash"] == asked["policy_hash"]
    assert after["model"]["status"] == "scored"
    sender.close()


@pytest.mark.full
def test_a_change_whose_version_nobody_loaded_is_stored_by_its_proposal(
    scene: Scene, ann: httpx.Client, worker: subprocess.Popen[bytes]
) -> None:
    body = {"workflow": NAME, "knobs": {"points.high": 61, "review_from": "high"}, "by": ["crew"]}
    asked = ok(ann.post(RUNS, json=body), 202)
    done = until(ann, f"{RUNS}/{asked['run_id']}", has_ended)
    assert (done["state"], list(done["evidence"]["segments"])) == ("finished", ["crew"])
    before = scene.place.json("workflow", "knobs", NAME)
    release = ok(ann.post(BASE, json={"backtest": done["backtest"], **WHY}))
    assert release["policy_hash"] == asked["policy_hash"]
    assert scene.place.json("workflow", "knobs", NAME) != before
    ok(ann.post(f"{BASE}/{release['release_id']}/withdraw", json=WHY))
    again = scene.place.json(
        *("release", "propose", NAME, "--backtest", done["backtest"], "--dry-run"),
        *("--reason", "test", "--as", "ann"),
    )
    assert again["policy_hash"] == asked["policy_hash"]


def test_one_is_cancelled_and_a_second_one_waits_its_turn(scene: Scene, ann: httpx.Client) -> None:
    asked = ok(ann.post(RUNS, json={"workflow": NAME, "knobs": {"points.high": 62}}), 202)
    busy = ann.post(RUNS, json={"workflow": NAME, "bundle": "none"})
    refused(busy, 409, "backtest_busy")
    assert busy.json()["fields"]["run_id"] == asked["run_id"]
    path = f"{RUNS}/{asked['run_id']}"
    ended = ok(ann.post(f"{path}/cancel", json={"reason": "wrong knob"}), 202)
    assert (ended["state"], ended["cancelled_by"]) == ("cancelled", "ann")
    assert ok(ann.get(path))["error"]["code"] == "backtest_cancelled"
    assert notes(scene, "backtest.ended")[0]["detail"]["reason"] == "wrong knob"
    refused(ann.post(f"{path}/cancel", json=WHY), 404, "unknown_backtest_run")
    listed = ok(ann.get(RUNS, params={"workflow": NAME, "limit": 1}))["backtests"]
    assert [each["run_id"] for each in listed] == [asked["run_id"]]


def stuck(scene: Scene, ann: httpx.Client, worker: subprocess.Popen[bytes]) -> tuple[str, Any]:
    """A run whose process was stopped while it ran, and that process."""
    knobs = {"points.high": 63}
    asked = ok(ann.post(RUNS, json={"workflow": NAME, "knobs": knobs}), 202)
    deadline = time.monotonic() + SECONDS
    while not (found := children(worker)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    found[0].suspend()
    path = f"{RUNS}/{asked['run_id']}"
    until(ann, path, lambda told: told["state"] == "running")
    return path, found[0]


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if MODULE in " ".join(each.cmdline())
    ]


@pytest.mark.full
def test_one_that_runs_is_cancelled(
    scene: Scene, ann: httpx.Client, worker: subprocess.Popen[bytes]
) -> None:
    path, child = stuck(scene, ann, worker)
    ok(ann.post(f"{path}/cancel", json=WHY), 202)
    assert until(ann, path, has_ended)["state"] == "cancelled"
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


@pytest.mark.full
def test_a_killed_process_is_told_by_name(
    scene: Scene, ann: httpx.Client, worker: subprocess.Popen[bytes]
) -> None:
    path, child = stuck(scene, ann, worker)
    child.kill()
    done = until(ann, path, has_ended)
    assert (done["state"], done["error"]["code"]) == ("crashed", "backtest_crashed")


@pytest.mark.full
def test_a_killed_worker_leaves_a_named_end(scene: Scene, ann: httpx.Client) -> None:
    worker = started(scene)
    try:
        path, child = stuck(scene, ann, worker)
    finally:
        worker.kill()
        worker.wait()
    with suppress(psutil.NoSuchProcess):
        child.resume()  # one that had only begun to start sees for itself that it is alone
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()
    assert ok(ann.get(path))["state"] == "running"  # as far as anybody knows
    again = started(scene)
    try:
        call = "from tiebreak.tasks.app import app;app.send_task('backtest.sweep').get(60)"
        subprocess.run([sys.executable, "-c", call], env=scene.place.environment, check=True)
        done = until(ann, path, has_ended)
    finally:
        again.kill()
        again.wait()
    assert (done["state"], done["error"]["code"]) == ("abandoned", "backtest_abandoned")
    assert notes(scene, "backtest.ended")[0]["detail"]["error"] == "backtest_abandoned"


@pytest.mark.full
def test_one_that_takes_too_long_is_ended(scene: Scene, ann: httpx.Client) -> None:
    worker = started(scene, TIEBREAK_BACKTEST__WALL_SECONDS="0.2")
    try:
        asked = ok(ann.post(RUNS, json={"workflow": NAME, "knobs": {"points.high": 64}}), 202)
        done = until(ann, f"{RUNS}/{asked['run_id']}", has_ended)
    finally:
        worker.kill()
        worker.wait()
    assert (done["state"], done["error"]["code"]) == ("timed_out", "backtest_timed_out")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"workflow": NAME}, 422, "nothing_changed"),
        ({"workflow": "other", "bundle": "none"}, 404, "unknown_workflow"),
        ({"workflow": NAME, "bundle": "0" * 12}, 404, "no_such_model"),
        ({"workflow": NAME, "policy": "0" * 12}, 404, "unknown_policy"),
        ({"workflow": NAME, "policy": "0" * 12, "bundle": "none"}, 422, "ambiguous_policy"),
        ({"workflow": NAME, "knobs": {"points.hihg": 1}}, 422, "knob_mistaken"),
        ({"workflow": NAME, "files": {"rules.yaml": "rules: [1]"}}, 422, "mistaken_workflow"),
        ({"workflow": NAME, "files": {"../rules.yaml": ""}}, 422, "invalid_input"),
        ({"workflow": NAME, "bundle": "none", "by": ["nothing"]}, 422, "segment_unfit"),
    ],
)
def test_what_cannot_be_tried_is_refused_at_once(
    ann: httpx.Client, body: Told, status: int, code: str
) -> None:
    refused(ann.post(RUNS, json=body), status, code)


def test_the_files_of_a_workflow_are_a_change(ann: httpx.Client) -> None:
    asked = ok(ann.post(RUNS, json={"workflow": NAME, "files": FILES}), 202)
    changed = {each["part"] for each in asked["changes"]}
    assert {"rules_version", "workflow_version"} <= changed
    ended = ok(ann.post(f"{RUNS}/{asked['run_id']}/cancel", json=WHY), 202)
    assert ended["state"] == "cancelled"
    other = FILES | {"workflow.yaml": FILES["workflow.yaml"].replace(NAME, "others")}
    refused(ann.post(RUNS, json={"workflow": NAME, "files": other}), 422, "other_workflow")


@pytest.mark.parametrize("role", Role)
def test_only_the_roles_of_a_step_take_it(scene: Scene, url: str, role: Role) -> None:
    steps = {
        "start_backtest": ("POST", RUNS),
        "list_backtests": ("GET", RUNS),
        "get_backtest": ("GET", f"{RUNS}/{NOBODYS}"),
        "cancel_backtest": ("POST", f"{RUNS}/{NOBODYS}/cancel"),
    }
    with scene.client(url, "cat", role) as client:
        for name, (method, path) in steps.items():
            body = {"x": 1} if method == "POST" else None
            response = client.request(method, path, json=body)
            is_refused = response.status_code == 403 and response.json()["code"] == "role_missing"
            assert is_refused == (role not in ACCESS[name]), (name, response.text)
