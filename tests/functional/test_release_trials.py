"""Shadow and canary as people use them: commands, and what the API tells of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from tests import releases
from tests.databases import DatabaseUrls, run
from tests.functional.serving import serving
from tests.keys import KEYRING
from tests.shadowed import NAME, RULES, Site, settled

from tiebreak import cli
from tiebreak.access.keys import create_key
from tiebreak.access.roles import Role
from tiebreak.cli import exits
from tiebreak.release.approvals import NotApproved, approve
from tiebreak.release.canary import StepNotOver
from tiebreak.release.releases import find
from tiebreak.release.states import Stage
from tiebreak.settings import Settings
from tiebreak.store.database import Database

Tiebreak = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(
    database_urls: DatabaseUrls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    valkey_url: str,
) -> Settings:
    settled(database_urls, tmp_path, monkeypatch)
    monkeypatch.setenv("REDIS_URL", valkey_url)
    return Settings.load()


@pytest.fixture
def tiebreak(capsysbinary: pytest.CaptureFixture[bytes]) -> Tiebreak:
    """Commands, in this process: each process of its own takes seconds to import."""

    def command(*words: str, fails_with: int = exits.OK) -> dict[str, Any]:
        arguments = ["release", *words, "--json"]
        capsysbinary.readouterr()
        code = exits.run(cli.build(arguments), arguments)
        told = capsysbinary.readouterr()
        assert code == fails_with, (told.out, told.err)
        return orjson.loads(told.out)

    return command


async def _proposed(urls: DatabaseUrls, folder: Path) -> tuple[str, str]:
    """A candidate by rules alone, and a key that may read of it."""
    db = await Database.open(urls.app, pool_size=2)
    site = await Site.open(db, folder)
    rules = RULES.model_copy(update={"rules": RULES.rules[:1]})
    release = await site.candidate(rules=rules)
    roles = frozenset({Role.ML_ENGINEER})
    key = await create_key(
        site.office.lane, person="ann", roles=roles, actor="tests", expires_at=None
    )
    await db.close()
    return str(release.release_id), str(key)


async def _approve(urls: DatabaseUrls, folder: Path, release: str) -> None:
    db = await Database.open(urls.app, pool_size=2)
    site = await Site.open(db, folder)
    found = await find(db, release)
    await releases.gated(site.office, found, Stage.CANARY)
    await approve(site.office, found.release_id, Stage.CANARY, approver="bob")
    await db.close()


@pytest.mark.timeout(400)
def test_a_candidate_is_taken_through_shadow_and_canary_by_commands(
    tiebreak: Tiebreak, settings: Settings, database_urls: DatabaseUrls
) -> None:
    release, key = run(_proposed(database_urls, settings.artifacts_dir))
    start = release[:8]
    (told,) = tiebreak("shadow", "start", start, "--as", "ann", "--share", "0.5")["shadows"]
    assert (told["state"], told["share"], told["scored"]) == ("shadow", 0.5, 0)
    (told,) = tiebreak("shadow", "stop", start, "--as", "ann", "--reason", "test")["shadows"]
    assert told["state"] == "stopped"
    tiebreak("shadow", "start", start, "--as", "ann")
    (told,) = tiebreak("shadow", "status")["shadows"]
    assert (told["release"], told["error"]) == (release, None)

    refused = tiebreak(
        "canary", "start", start, "--as", "ann", fails_with=exits.exit_code(NotApproved())
    )
    assert refused["error"]["code"] == "not_approved"
    run(_approve(database_urls, settings.artifacts_dir, release))
    assert tiebreak("canary", "start", start, "--as", "ann")["percent"] == 5
    step = ("canary", "step", start, "--as", "ann")
    refused = tiebreak(*step, fails_with=exits.exit_code(StepNotOver()))
    assert refused["error"]["code"] == "step_not_over"
    assert tiebreak(*step, "--early", "test")["percent"] == 25
    assert tiebreak("canary", "hold", start, "--as", "ann", "--reason", "t")["state"] == "held"
    assert tiebreak(*step)["percent"] == 25
    assert tiebreak(*step, "--percent", "50", "--early", "test")["percent"] == 50
    told = tiebreak("canary", "status", start)
    assert (told["state"], told["tickets"]) == ("canary", 0)
    assert [guard["is_harm"] for guard in told["guards"]] == [False] * 6

    headers = {"Authorization": f"Bearer {key}"}
    with serving(settings, KEYRING) as (url, _), httpx.Client(base_url=url, headers=headers) as api:
        found = api.get(f"/v1/releases/{release}/canary").json()
        assert found == {**found, "percent": 50, "state": "canary", "release_id": release}
        found = api.get(f"/v1/releases/{release}/shadow").json()
        assert found == {**found, "scored": 0, "workflow": NAME, "error": None}
        assert api.get(f"/v1/releases/{release[:-1]}x/shadow").status_code == 404
        assert api.get(f"/v1/releases/{release}/shadow", headers={"Authorization": ""}).is_error

    told = tiebreak("canary", "stop", start, "--as", "ann", "--reason", "test")
    assert (told["percent"], told["state"]) == (0, "stopped")
