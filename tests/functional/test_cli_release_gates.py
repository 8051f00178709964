"""`tiebreak release gates` as a person runs it, and what the API tells of it."""

from __future__ import annotations

import httpx
import pytest
from tests.candidates import World
from tests.databases import DatabaseUrls, run
from tests.functional.places import Place
from tests.functional.serving import serving, settings_for

from tiebreak.cli import exits
from tiebreak.settings import Keyring
from tiebreak.store.database import Database


@pytest.fixture(scope="module")
def place(
    module_database_urls: DatabaseUrls, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Place:
    """Persons, and the world of candidates."""
    return Place.made(tmp_path_factory.mktemp("place"), module_database_urls, valkey_url)


@pytest.fixture(scope="module")
def release(place: Place) -> str:
    """A candidate in shadow that has scored every live ticket."""
    settings = settings_for(place.urls, place.folder / "data")

    async def make() -> str:
        db = await Database.of(settings)
        world = await World.made(db, settings.data_dir, Keyring.load(settings))
        release = await world.proposed(world.bundled((await world.trained()).parts))
        await world.shadow(release)
        await db.close()
        return str(release.release_id)

    return run(make())


def test_gates_are_asked_shown_and_told(place: Place, release: str) -> None:
    early = ("release", "gates", release, "--known-by", "2020-01-01", "--as", "ann")
    assert place.json(*early, code=5)["evidence"]["tickets"] == 0
    code, out, err = place.run("release", "gates", release[:8], "--as", "ann")
    assert code == exits.OK, out + err
    for text in ("Gates before promotion", "pr_auc", "PR-AUC is", "pass", "what it saw"):
        assert text in out
    assert "somebody else than its author may approve it" in err
    told = place.json("release", "gates", release, "--stage", "canary", "--as", "ann")
    assert told["is_passed"] is True
    assert told["stage"] == "canary"
    assert {gate["verdict"] for gate in told["gates"]} == {"pass"}
    key = place.json("keys", "create", "--person", "ann", "--role", "approver")["key"]
    service = place.json("keys", "create", "--person", "bob", "--role", "service")["key"]
    settings = settings_for(place.urls, place.folder / "data")
    with serving(settings, Keyring.load(settings)) as (url, _):

        def get(release_id: str, token: str = key) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.get(f"{url}/v1/releases/{release_id}/gates", headers=headers)

        answer = get(release)
        assert answer.status_code == 200
        assert answer.json()["canary"]["evaluation_id"] == told["evaluation_id"]
        assert answer.json()["canary"]["results"]["gates"] == told["gates"]
        assert answer.json()["promotion"]["is_passed"] is True
        assert get("0" * 8 + "-0000-0000-0000-" + "0" * 12).status_code == 404
        assert get("nonsense").status_code == 404
        assert get(release, service).status_code == 403
        headers = {"Authorization": f"Bearer {key}"}
        address = f"{url}/v1/releases/{release}/gates"
        asked = httpx.post(address, json={"stage": "canary"}, headers=headers, timeout=60).json()
        assert (asked["is_passed"], asked["stage"]) == (True, "canary")
        assert asked["evaluation_id"] == get(release).json()["canary"]["evaluation_id"]
        assert [gate["gate"] for gate in asked["results"]["gates"]] == [
            gate["gate"] for gate in told["gates"]
        ]
        assert asked["results"]["evidence"] == told["evidence"]


def test_a_gate_that_blocks_ends_with_the_code_of_conflicts(place: Place, release: str) -> None:
    place.alter("DELETE FROM ml_shadow_scores WHERE ticket_id LIKE '%-7'")
    code, out, err = place.run("release", "gates", release, "--as", "ann")
    assert code == 5
    assert "fail" in out
    assert "errors: Find out on which tickets the candidate fails." in err
    told = place.json("release", "gates", release, "--as", "ann", code=5)
    assert told["is_passed"] is False
    assert told["evaluation_id"] is not None
    place.alter("DELETE FROM ml_shadow_scores")
    told = place.json("release", "gates", release, "--as", "ann", code=5)
    missing = {g["gate"]: g["hint"] for g in told["gates"] if g["verdict"] == "no evidence"}
    assert {"volume", "labels", "replay"} <= missing.keys()
    assert all(missing.values())
