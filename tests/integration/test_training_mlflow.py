"""MLflow is told of runs, in a database of its own; where it is away, the run says so and goes on.

It needs the extra `mlflow`, with which `make test-full` runs it.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr
from tests.databases import run

from tiebreak.core.model import MANIFEST
from tiebreak.embedded.postgres import PostgresServer
from tiebreak.settings import MlflowSettings, Settings
from tiebreak.store import roles
from tiebreak.training import handover
from tiebreak.training.fit import Parameters
from tiebreak.training.process import Told, Trained
from tiebreak.training.requests import Request
from tiebreak.training.tracking import track
from tiebreak.training.turns import Turn

pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
pytestmark = [pytest.mark.full, pytest.mark.timeout(300)]

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)
PASSWORD = "a-password-for-mlflow%"
DIGEST = "d" * 64
MANIFEST_OF = {
    "workflow": "locate",
    "workflow_version": "v" * 64,
    "data_hash": "h" * 64,
    "seed": 3,
    "family": "xgboost",
    "fingerprint": "f" * 16,
    "parameters": {"rounds": 10, "valid_from": MOMENT.isoformat()},
    "metrics": {"auc": 0.75, "pr_auc": None, "reliability": [[0.1, 0.2]], "rows": 100},
}
TRAINED = Trained(
    {MANIFEST: orjson.dumps(MANIFEST_OF), "onnx": b"\0"},
    MANIFEST_OF,
    {handover.DATA: b"tickets", handover.MANIFEST: b"{}", handover.REPORT: b"{}"},
)


def turn() -> Turn:
    request = Request(
        "locate", "v" * 64, MOMENT, None, None, Parameters(valid_from=MOMENT), "ann", "test"
    )
    return Turn(
        "locate", uuid.uuid4(), request, "running", MOMENT, MOMENT, Told("done", 1.0), None, None
    )


@pytest.fixture
def uri(postgres: PostgresServer) -> Generator[str]:
    """The address of MLflow's own database on the server, as `tiebreak up` makes it."""

    async def made() -> None:
        admin = await asyncpg.connect(postgres.url("postgres"))
        for _ in range(2):  # again at each start
            await roles.ensure_mlflow(admin, PASSWORD)
        await admin.close()

    async def gone() -> None:
        admin = await asyncpg.connect(postgres.url("postgres"))
        await admin.execute(f"DROP DATABASE {roles.MLFLOW} WITH (FORCE)")
        await admin.close()

    run(made())
    url = postgres.url(roles.MLFLOW, roles.MLFLOW, PASSWORD)
    yield url.replace("postgresql://", "postgresql+psycopg://", 1)
    run(gone())


def settings(folder: Path, uri: str, seconds: float = 120.0) -> Settings:
    return Settings(
        data_dir=folder, mlflow=MlflowSettings(tracking_uri=SecretStr(uri), timeout_seconds=seconds)
    )


async def test_a_run_is_told_with_its_figures_and_its_manifest(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    told = [await track(settings(tmp_path, uri), turn(), TRAINED, DIGEST) for _ in range(2)]
    assert [each.status for each in told] == ["tracked"] * 2
    client: Any = MlflowClient(tracking_uri=uri)
    found = client.get_run(told[0].detail)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"auc": 0.75, "rows": 100.0}
    assert found.data.params["rounds"] == "10"
    assert found.data.tags["tiebreak.bundle_digest"] == DIGEST
    assert "ann" not in str(found.to_dictionary())
    artifacts = tmp_path / "artifacts" / "mlflow" / "locate"
    names = sorted(path.name for path in artifacts.rglob("*") if path.is_file())
    assert names == [MANIFEST] * 2 + [handover.REPORT] * 2
    experiment = client.get_experiment_by_name("tiebreak/locate")
    assert len(client.search_runs([experiment.experiment_id])) == 2


async def test_no_other_role_enters_its_database_and_it_enters_no_other(
    postgres: PostgresServer, uri: str
) -> None:
    for role, database in ((roles.APP, roles.MLFLOW), (roles.MLFLOW, "tiebreak_template")):
        password = PASSWORD if role == roles.MLFLOW else postgres.password
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(postgres.url(database, role, password))


async def test_one_that_is_away_is_told_of_and_nothing_fails(tmp_path: Path) -> None:
    address = "postgresql+psycopg://u:secret-word@127.0.0.1:1/x"
    told = await track(settings(tmp_path, address, 20.0), turn(), TRAINED, DIGEST)
    assert told.status == "failed"
    assert "secret-word" not in told.detail


async def test_one_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told = await track(settings(tmp_path, address, 4.0), turn(), TRAINED, DIGEST)
    assert told.status == "failed"
    assert "did not answer" in told.detail
