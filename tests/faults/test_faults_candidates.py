"""Bad candidates beside a whole Tiebreak under load: they end in quarantine, and nobody waits."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.faults.load import Load, Mix
from tests.faults.stacks import Stack
from tests.releases import office_of
from tests.shadowed import NAME, RULES, SAMPLE, Kind, Site, body

from tiebreak.access.persons import ensure_person
from tiebreak.cli.session import opened
from tiebreak.core.policy import PolicyParts
from tiebreak.embedded import stack as servers
from tiebreak.embedded.stack import Services
from tiebreak.registry import records
from tiebreak.settings import Settings
from tiebreak.workflows import versions

CAUSES: dict[Kind, str] = {"fails": "failed", "not_finite": "not_finite", "hangs": "hung"}


class Candidates(Stack):
    """A whole Tiebreak with the sample in production by rules alone, and bad candidates of it."""

    def __init__(self) -> None:
        super().__init__()
        self._environment["TIEBREAK_SHADOW__BATCH_SECONDS"] = "1"
        self.releases: dict[Kind, str] = {}

    def prepare(self) -> None:
        """Put the workflow into production and propose candidates."""
        with servers.stack(Settings(data_dir=self.folder / "data")) as services:
            asyncio.run(self._propose(services))
        self.token = self.cli("keys", "create", "--person", "ann", "--role", "service")["key"]
        self.may_release()

    async def _propose(self, services: Services) -> None:
        async with opened(services, "ann") as session:
            async with session.lane.unit() as unit:
                for person in ("ann", "bob"):
                    await ensure_person(unit, person, actor="ann")
            await versions.load(session.lane, SAMPLE, RULES, author="ann", reason="test")
            parts = PolicyParts(NAME, SAMPLE.version, RULES.version)
            lane, keyring = session.lane, session.keyring
            await records.install(lane, keyring, parts, author="ann", approver="bob", reason="test")
            artifacts = session.settings.artifacts_dir
            site = Site(office_of(session.db, lane, keyring, artifacts), artifacts)
            for kind in CAUSES:
                self.releases[kind] = str((await site.candidate(kind)).release_id)

    def shadows(self) -> dict[str, dict[str, Any]]:
        """Where the shadows of all candidates stand, by release."""
        told = self.cli("release", "shadow", "status")["shadows"]
        return {shadow["release"]: shadow for shadow in told}


@pytest.fixture
def stack() -> Iterator[Candidates]:
    whole = Candidates()
    try:
        whole.start_prepared()
        yield whole
    finally:
        whole.close()


def fields(_chance: random.Random, number: int) -> dict[str, Any]:
    return orjson.loads(body(number))["fields"]


@pytest.mark.full
@pytest.mark.timeout(400)
def test_bad_candidates_end_in_quarantine_and_no_request_fails(stack: Candidates) -> None:
    with Load(stack, Mix(NAME, fields, singles=2, model_status="absent"), "t", 1) as load:
        for kind in CAUSES:
            stack.cli("release", "shadow", "start", stack.releases[kind])
        deadline = time.monotonic() + 200
        found = stack.shadows()
        while {told["state"] for told in found.values()} != {"quarantined"}:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
            found = stack.shadows()
    ledger = load.ledger
    assert [load.failures, ledger.contradictions, ledger.refusals, ledger.breaks] == [
        [],
        [],
        {},
        {},
    ]
    assert len(ledger.decisions) > 200
    causes = {kind: found[release]["error"]["cause"] for kind, release in stack.releases.items()}
    assert causes == CAUSES
    while _shadow_workers(stack):  # what is in quarantine is killed at once, and then it ends
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert stack.cli("audit", "verify")["intact"]


def _shadow_workers(stack: Candidates) -> list[int]:
    """The processes of candidates that still run."""
    names = {release.encode() for release in stack.releases.values()}
    found: list[int] = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if names & set(words) and int(place.parent.name) != os.getpid():
            found.append(int(place.parent.name))
    return found
