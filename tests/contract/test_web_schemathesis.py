"""Requests made from the description alone: no server error, and no breach of what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.functional.serving import TICKET, Site

from tiebreak.access.roles import Role

SEED = 20_260_301
PROGRAM = Path(sys.executable).with_name("schemathesis")
CONFIG = """
[parameters]
"path.workflow" = "repairs"
"""


def examined(site: Site, folder: Path, examples: int, *more: str) -> None:
    """Let Schemathesis make requests of every operation, valid and not, and check each answer."""
    done = subprocess.run(
        [
            *(str(PROGRAM), *more, "run", f"{site.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {site.tokens[Role.ADMIN]}"),
            *("--checks", "all", "--mode", "all", "--continue-on-failure"),
            *("--max-examples", str(examples), "--seed", str(SEED)),
            *("--generation-database", "none", "--no-color"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr


def test_x(site: Site, tmp_path: Path) -> None:
    client = site.client(Role.SERVICE)
    for name in ("a", "b"):
        ticket = {"ticket_id": name, "fields": dict(TICKET)}
        assert client.post("/v1/workflows/repairs/decisions", json=ticket).is_success
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    examined(site, tmp_path, 20, "--config-file", str(config))
