"""Training by the task worker: asked for by command and over HTTP, real processes, real deaths."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil
import pytest
from tests.databases import DatabaseUrls
from tests.functional.places import ROOT, Place
from tests.functional.serving import serving

from tiebreak.access.roles import Role
from tiebreak.bundles.artifacts import ArtifactStore
from tiebreak.bundles.folder import Folder
from tiebreak.ingest.simulator import simulate
from tiebreak.settings import DatabaseSettings, Keyring, RedisSettings, Settings
from tiebreak.training.process import MODULE

END = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
SECONDS = 90.0
BY_ANN = ("--as", "ann", "--reason", "test")
QUICK = ("--trees", 10, "--depth", 3)
LEARNING = ("fit", "calibrate", "export", "prove")
SLOW = ("--trees", 2000, "--depth", 8, "--learning-rate", 0.001)
RUNS = "/v1/workflows/locate/training-runs"
JSON = {"Content-Type": "application/json"}
WORKER = ("celery", "-A", "tiebreak.tasks.app", "worker", "--pool", "threads")

Run = dict[str, Any]


@pytest.fixture(scope="module")
def place(
    module_database_urls: DatabaseUrls, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """`locate` with simulated history, and a queue of its own."""
    folder = tmp_path_factory.mktemp("place")
    queue = valkey_url.rpartition("/")[0] + "/9"
    found = Place.made(folder, module_database_urls, queue)
    found.json("workflow", "load", ROOT / "workflows" / "locate", *BY_ANN)
    past = simulate(3, 1_500, END - timedelta(days=400), 400).known_by(END)
    tickets, events = past.write(folder)
    found.json("import", "locate", tickets, "--outcomes", events, "--as", "ann")
    return found


@pytest.fixture
def worker(place: Place) -> Generator[subprocess.Popen[bytes]]:
    process = started(place)
    yield process
    process.kill()
    process.wait()


def started(place: Place) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *WORKER], env=place.environment)


def shown(place: Place, run_id: str) -> Run:
    return place.json("training", "show", run_id)


def until(place: Place, run_id: str, holds: Callable[[Run], bool]) -> Run:
    deadline = time.monotonic() + SECONDS
    while not holds(run := shown(place, run_id)):
        assert time.monotonic() < deadline, run
        time.sleep(0.1)
    return run


def fits(run: Run) -> bool:
    return run["state"] == "running" and run["step"] in LEARNING


def has_ended(run: Run) -> bool:
    return run["state"] not in ("queued", "running")


def child_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    (found,) = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if MODULE in " ".join(each.cmdline())
    ]
    return found


def artifacts(place: Place) -> ArtifactStore:
    return ArtifactStore(Folder(place.folder / "data" / "artifacts"))


@pytest.mark.full
def test_a_detached_run_is_trained_by_the_worker(
    place: Place, worker: subprocess.Popen[bytes]
) -> None:
    queued = place.json("train", "locate", *QUICK, *BY_ANN, "--detach")
    assert queued["state"] == "queued"
    done = until(place, queued["run_id"][:8], has_ended)
    assert (done["state"], done["author"], done["reason"]) == ("bundled", "ann", "test")
    assert artifacts(place).has_bundle(done["bundle_digest"])
    assert done["metrics"]["tracking"]["status"] == "not_tracked"
    direct = place.process("train", "locate", *QUICK, *BY_ANN, "--known-by", f"{END:%Y-%m-%d}")
    assert direct["run_id"] in {run["run_id"] for run in place.json("training", "list")["runs"]}
    code, out, _ = place.run("training", "show", queued["run_id"])
    assert code == 0
    assert done["bundle_digest"] in out


@pytest.mark.full
def test_a_run_is_cancelled_by_command(place: Place, worker: subprocess.Popen[bytes]) -> None:
    run = place.json("train", "locate", *SLOW, *BY_ANN, "--detach")["run_id"]
    busy = place.json("train", "locate", *QUICK, *BY_ANN, code=5)["error"]
    assert (busy["code"], busy["run_id"]) == ("training_busy", run)
    until(place, run, fits)
    code, out, _ = place.run("training", "list", "locate")
    assert code == 0
    assert "running: " in out  # it may have gone on meanwhile
    child = child_of(worker)
    place.json("training", "cancel", run[:8], "--reason", "wrong data", "--as", "bob")
    done = until(place, run, has_ended)
    assert (done["state"], done["cancelled_by"], done["bundle_digest"]) == (
        "cancelled",
        "bob",
        None,
    )
    code, out, _ = place.run("training", "show", run[:8])
    assert (code, "bob: wrong data" in out) == (0, True)
    assert not child.is_running()
    error = place.json("training", "cancel", run, "--reason", "again", "--as", "bob", code=4)
    assert error["error"]["code"] == "unknown_training_run"
    assert place.json("training", "show", "zz", code=4)["error"]["code"] == "unknown_training_run"


@pytest.mark.full
def test_a_killed_worker_leaves_no_model_and_the_run_is_found(place: Place) -> None:
    before = artifacts(place).list_bundles(), alias(place)
    worker = started(place)
    run = place.json("train", "locate", *SLOW, *BY_ANN, "--detach")["run_id"]
    until(place, run, fits)
    child = child_of(worker)
    worker.kill()
    worker.wait()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    assert shown(place, run)["state"] == "running"  # as far as anybody knows
    again = started(place)
    try:
        call = "from tiebreak.tasks.app import app;print(app.send_task('training.sweep').get(60))"
        swept = subprocess.run(
            [sys.executable, "-c", call], env=place.environment, capture_output=True, check=True
        )
        assert run in swept.stdout.decode()
        done = until(place, run, has_ended)
        assert (done["state"], done["metrics"]["error"]) == ("abandoned", "training_abandoned")
        assert (artifacts(place).list_bundles(), alias(place)) == before
        assert place.process("train", "locate", *QUICK, *BY_ANN)["bundle_digest"]
    finally:
        again.kill()
        again.wait()


def alias(place: Place) -> str | None:
    return artifacts(place).read_alias("locate", "risk_model_candidate")


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_stopped_leaves_no_model(place: Place, number: signal.Signals) -> None:
    before = artifacts(place).list_bundles(), alias(place)
    command = subprocess.Popen(
        [
            *(sys.executable, "-c", "from tiebreak.cli import main; main()"),
            *("train", "locate", *map(str, SLOW), *BY_ANN),
        ],
        env=place.environment,
    )
    deadline = time.monotonic() + SECONDS
    while not (now := [r for r in place.json("training", "list")["runs"] if fits(r)][:1]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child = child_of(command)
    command.send_signal(number)
    command.wait(30)
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    run = now[0]["run_id"]
    if number == signal.SIGKILL:
        # the next who asks for its end finds that nobody supervises it
        place.json("training", "cancel", run, "--reason", "it was killed", "--as", "bob")
    done = shown(place, run)
    assert done["state"] == ("abandoned" if number == signal.SIGKILL else "cancelled")
    assert (artifacts(place).list_bundles(), alias(place)) == before


@pytest.mark.full
def test_a_run_that_meets_its_limits_says_so(place: Place) -> None:
    small = {**place.environment, "TIEBREAK_TRAINING__MEMORY_BYTES": str(200 << 20)}
    tight = Place(place.folder, place.urls, small)
    error = tight.json("train", "locate", *QUICK, *BY_ANN, code=7)["error"]
    assert error["code"] == "training_out_of_memory"
    assert "TIEBREAK_TRAINING__MEMORY_BYTES" in error["hint"]


@pytest.mark.full
def test_a_run_waits_while_the_queue_is_away(place: Place) -> None:
    away = {**place.environment, "REDIS_URL": "redis://127.0.0.1:1/0"}
    run = Place(place.folder, place.urls, away).json(
        "train", "locate", *QUICK, *BY_ANN, "--detach"
    )["run_id"]
    assert shown(place, run)["state"] == "queued"
    place.json("training", "cancel", run, "--reason", "no need", "--as", "bob")
    assert shown(place, run)["state"] == "cancelled"


@pytest.fixture
def api(place: Place) -> Generator[Callable[[Role], httpx.Client]]:
    """A server on the place, and clients with a key of a role."""
    settings = Settings(
        data_dir=place.folder / "data",
        database=DatabaseSettings(url=place.urls.app, owner_url=place.urls.owner),
        redis=RedisSettings(url=place.environment["REDIS_URL"]),
    )
    clients: list[httpx.Client] = []
    with serving(settings, Keyring.load(settings)) as (url, _):

        def client(role: Role) -> httpx.Client:
            key = place.json("keys", "create", "--person", "ann", "--role", role)["key"]
            headers = {"Authorization": f"Bearer {key}"}
            clients.append(httpx.Client(base_url=url, headers=headers, timeout=30))
            return clients[-1]

        yield client
        for each in clients:
            each.close()


@pytest.mark.full
def test_a_run_is_started_followed_and_ended_over_http(
    place: Place, worker: subprocess.Popen[bytes], api: Callable[[Role], httpx.Client]
) -> None:
    engineer, auditor = api(Role.ML_ENGINEER), api(Role.AUDITOR)
    quick = {"reason": "monthly", "trees": 10, "depth": 3, "seed": 2}
    assert auditor.post(RUNS, json=quick).status_code == 403
    before = engineer.post(RUNS, json=quick).json()["run_id"]
    until(place, before, has_ended)
    since = f"{END - timedelta(days=200):%Y-%m-%d}T00:00:00Z"
    asked = engineer.post(RUNS, json={**quick, "tune_from": since})
    assert asked.status_code == 202
    first = asked.json()
    assert (first["state"], first["author"].partition("/")[0]) == ("queued", "ann")
    assert until(place, first["run_id"], has_ended)["state"] == "bundled"
    told = auditor.get(f"{RUNS}/{first['run_id']}").json()
    assert (told["state"], told["seed"], told["parameters"]["rounds"]) == ("bundled", 2, 10)
    assert datetime.fromisoformat(told["parameters"]["tune_from"]) == datetime.fromisoformat(since)
    assert told["metrics"]["auc"]

    slow = {"reason": "long", "trees": 2000, "depth": 8, "learning_rate": 0.001}
    second = engineer.post(RUNS, json=slow).json()["run_id"]
    assert engineer.post(RUNS, json=quick).json()["code"] == "training_busy"
    until(place, second, fits)
    page = auditor.get(RUNS, params={"limit": 1}).json()
    assert [run["run_id"] for run in page["runs"]] == [second, first["run_id"]]
    assert page["runs"][0]["state"] == "running"
    older = auditor.get(RUNS, params={"cursor": page["next_cursor"], "limit": 500}).json()
    older_ids = {run["run_id"] for run in older["runs"]}
    assert before in older_ids
    assert older_ids.isdisjoint({second, first["run_id"]})
    cancel = f"{RUNS}/{second}/cancel"
    assert auditor.post(cancel, json={"reason": "no"}).status_code == 403
    assert engineer.post(cancel, json={"reason": "enough"}).status_code == 202
    ended = until(place, second, has_ended)
    assert (ended["state"], ended["metrics"]["cancel_reason"]) == ("cancelled", "enough")


def test_wrong_requests_are_told_what_is_wrong(
    place: Place, api: Callable[[Role], httpx.Client]
) -> None:
    engineer = api(Role.ML_ENGINEER)
    wrong = engineer.post(RUNS, json={"reason": " ", "trees": 0, "seeed": 1, "known_by": 5})
    assert wrong.status_code == 422
    found = {problem["where"].partition(".")[0] for problem in wrong.json()["problems"]}
    assert found == {"reason", "trees", "seeed", "known_by"}
    assert engineer.post(RUNS, content=b"{", headers=JSON).status_code == 400
    unknown = f"{RUNS}/3f2a81c0-6f0e-4d4e-9a55-0123456789ab"
    for path in (unknown, f"{RUNS}/none", unknown.replace("locate", "none")):
        assert engineer.get(path).json()["code"] == "unknown_training_run"
    assert engineer.post(f"{unknown}/cancel", json={"reason": "no"}).status_code == 404
    assert engineer.post(RUNS.replace("locate", "none"), json={"reason": "no"}).status_code == 404
    assert engineer.get(RUNS.replace("locate", "none")).status_code == 404
