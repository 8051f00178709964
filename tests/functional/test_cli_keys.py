"""Keys on the command line, as a person runs them: made, used, listed, revoked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.databases import DatabaseUrls
from tests.functional.serving import environment, settings_for

from tiebreak.access.keys import read_token
from tiebreak.secret_files import ensure_secrets
from tiebreak.settings import Settings

COMMAND = [sys.executable, "-c", "from tiebreak.cli import main; main()", "keys"]


@pytest.fixture
def settings(database_urls: DatabaseUrls, tmp_path: Path, valkey_url: str) -> Settings:
    found = settings_for(database_urls, tmp_path)
    ensure_secrets(found.secrets_dir, is_new=True)
    return found


@pytest.fixture
def keys(settings: Settings, valkey_url: str) -> Any:
    def run(*arguments: str) -> tuple[int, Any]:
        done = subprocess.run(
            [*COMMAND, *arguments, "--json"],
            env=environment(settings) | {"REDIS_URL": valkey_url},
            capture_output=True,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, orjson.loads(done.stdout)

    return run


@pytest.mark.full
def test_a_key_is_made_listed_and_revoked(keys: Any) -> None:
    code, made = keys("create", "--person", "ann", "--role", "service", "--role", "lead")
    assert code == 0
    token = read_token(made["key"])
    assert token is not None
    code, listed = keys("list")
    (key,) = listed["keys"]
    assert (key["key_id"], key["person"], key["state"]) == (token.key_id, "ann", "live")
    assert key["roles"] == ["lead", "service"]
    assert token.secret not in orjson.dumps(listed).decode()
    for is_first in (True, False):
        code, told = keys("revoke", token.key_id, "--reason", "laptop lost")
        assert (code, told["revoked_now"]) == (0, is_first)
    assert keys("list")[1]["keys"][0]["state"] == "revoked"


def test_mistakes_have_their_exit_codes(keys: Any) -> None:
    assert keys("create", "--person", "Ann Lee", "--role", "service")[0] == 3
    assert keys("revoke", "0" * 12, "--reason", "x")[0] == 4
