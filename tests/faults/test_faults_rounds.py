"""Faults under load: what was acknowledged is there, once, and the audit trail holds."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest
from tests.faults import rounds
from tests.faults.kinds import KINDS, Site

KILLS = ("worker", "postgres", "valkey", "supervisor", "everything")
ROUNDS = 300
SEED = 20260101


@pytest.fixture
def site() -> Iterator[Site]:
    whole = Site()
    try:
        whole.start_prepared()
        yield whole
    finally:
        whole.close()


@pytest.mark.full
@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(site: Site) -> None:
    rounds.run(site, KILLS, SEED, look_every=len(KILLS))


@pytest.mark.full
@pytest.mark.parametrize("name", KINDS)
def test_the_fault_can_be_inflicted_here(name: str) -> None:
    """Only so that a fault that is left out is named, with its reason."""
    if (reason := KINDS[name]().obstacle()) is not None:
        pytest.skip(f"left out: {reason}")


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_nothing_is_lost_or_doubled_over_hundreds_of_faults(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    names = rounds.schedule(rounds.inflictable(), ROUNDS, random.Random(SEED))
    told = rounds.run(site, names, SEED, look_every=50)
    with capsys.disabled():
        sys.stdout.write(f"\n{told}\n")
