"""Requests made from the description alone: no server error, and no breach of what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.databases import run
from tests.functional.serving import TICKET, Site

from tiebreak.access.keys import create_key
from tiebreak.access.roles import Role
from tiebreak.audit.lanes import Lane
from tiebreak.store.database import Database

SEED = 20_260_301
PROGRAM = Path(sys.executable).with_name("schemathesis")
ROOT = Path(__file__).parents[2]

# What no schema can say, so that data that fits it may be refused: a cursor is one that the list
# gave, a ticket id is printable, an outcome or a moment of knowledge is not in the future. Any text
# is a batch, whose lines are judged one by one. A ticket's id may end in "/outcomes", so GET is
# taken there too, and the header `Allow`, which says so, is left to a test of our own.
CONFIG = """
[parameters]
"path.workflow" = "repairs"

[[operations]]
include-operation-id = "list_decisions"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "422"]

[[operations]]
include-operation-id = "list_audit"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "422"]

[[operations]]
include-operation-id = "list_training_runs"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "422"]

[[operations]]
include-operation-id = "start_training"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409"]

[[operations]]
include-operation-id = "decide_ticket"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-operation-id = "record_outcome"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-operation-id = "start_backtest"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-operation-id = "evaluate_gates"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]

[[operations]]
include-operation-id = "list_releases"
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]

[[operations]]
include-operation-id = "list_release_history"
checks.positive_data_acceptance.expected-statuses = ["2xx", "422"]

[[operations]]
include-operation-id = "rollback_production"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409"]

[[operations]]
include-operation-id = "decide_batch"
checks.negative_data_rejection.expected-statuses = ["200", "401", "403", "404", "415"]
"""


async def every_role(site: Site) -> str:
    """A key of a person who has every role."""
    db = await Database.open(site.urls.app, pool_size=1)
    lane = await Lane.open(db, "tests", site.keyring)
    roles = frozenset(Role)
    token = await create_key(lane, person="cat", roles=roles, actor="tests", expires_at=None)
    await db.close()
    return str(token)


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(8, marks=pytest.mark.timeout(300)),
        pytest.param(200, marks=[pytest.mark.full, pytest.mark.timeout(1_200)]),
    ],
)
def test_no_request_breaks_the_server_or_its_promises(
    site: Site, tmp_path: Path, examples: int
) -> None:
    """Every operation, with a key that may use it; without and with a wrong one too."""
    client = site.client(Role.SERVICE)
    token = run(every_role(site))
    for name in ("0", "example-1"):
        ticket = {"ticket_id": name, "fields": dict(TICKET)}
        assert client.post("/v1/workflows/repairs/decisions", json=ticket).is_success
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    done = subprocess.run(
        [
            *(str(PROGRAM), "--config-file", str(config), "run", f"{site.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {token}"),
            *("--checks", "all", "--exclude-checks", "allow_header_conformance"),
            *("--mode", "all", "--continue-on-failure"),
            *("--max-examples", str(examples), "--seed", str(SEED)),
            *("--generation-database", "none", "--no-color", "--warnings", "off"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.contract.schemathesis_lines",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    paths = client.get("/openapi.json").json()["paths"]
    count = sum(len(operations) for operations in paths.values())
    assert count > 40
    assert f"Operations:       {count} selected / {count} total" in done.stdout
