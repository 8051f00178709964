"""Bad candidates beside a whole Tiebreak under load: they end in quarantine, and nobody waits."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
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

CLIENTS = 2
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
        whole.start()
        deadline = time.monotonic() + 120
        while not whole.cli("status")["url"] and time.monotonic() < deadline:
            time.sleep(0.2)
        whole.prepare()
        whole.url()
        yield whole
    finally:
        whole.close()


class Load:
    """Clients that send new tickets as fast as they can, and count the answers by status."""

    def __init__(self, stack: Candidates) -> None:
        self._url, self._token = stack.url(), stack.token
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self.statuses: list[int | str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        with httpx.Client(timeout=30, headers=headers) as client:
            while not self._stop.is_set():
                url = f"{self._url}/v1/workflows/{NAME}/decisions"
                try:
                    answer = client.post(url, content=body(next(self._numbers)))
                except httpx.HTTPError as error:
                    self.statuses.append(type(error).__name__)
                else:
                    self.statuses.append(answer.status_code)


@pytest.mark.full
@pytest.mark.timeout(400)
def test_bad_candidates_end_in_quarantine_and_no_request_fails(stack: Candidates) -> None:
    with Load(stack) as load:
        for kind in CAUSES:
            stack.cli("release", "shadow", "start", stack.releases[kind])
        deadline = time.monotonic() + 200
        found = stack.shadows()
        while {told["state"] for told in found.values()} != {"quarantined"}:
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
            found = stack.shadows()
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 200
    causes = {kind: found[release]["error"]["cause"] for kind, release in stack.releases.items()}
    assert causes == CAUSES
    assert not _shadow_workers(stack)
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
