"""kill -9 under load: what was acknowledged is there, once, and the audit trail holds."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from tests.faults.stacks import Stack

CLIENTS = 6
SECONDS_BEFORE, SECONDS_AFTER = 1.0, 1.5
FAULTS: dict[str, Callable[[Stack], None]] = {
    "worker": Stack.kill_worker,
    "postgres": Stack.kill_postgres,
    "valkey": Stack.kill_valkey,
    "supervisor": Stack.kill_supervisor,
    "everything": Stack.kill_everything,
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    whole = Stack()
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
    """Clients that send new tickets as fast as they can, and note what was acknowledged."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self._name = name
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._url = stack.url()
        self.sent: set[str] = set()
        self.acknowledged: dict[str, str] = {}
        self.refusals: set[int] = set()
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        client = httpx.Client(timeout=5)
        while not self._stop.is_set():
            ticket_id = f"{self._name}-{next(self._numbers)}"
            self.sent.add(ticket_id)
            try:
                answer = send(client, self._url, self._stack.token, ticket_id)
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if answer.status_code == 200:
                self.acknowledged[ticket_id] = answer.json()["decision_id"]
            else:
                self.refusals.add(answer.status_code)
                time.sleep(0.05)


def send(client: httpx.Client, url: str, token: str, ticket_id: str) -> httpx.Response:
    fields = {
        "opened_at": "2026-01-02T10:00:00",
        "service": "Illegal Parking",
        "description": f"Car on the sidewalk, {ticket_id}",
        "address": f"{hash(ticket_id) % 50} Main St",
        "lat": 42.35,
        "lon": -71.06,
        "has_photo": False,
    }
    return client.post(
        f"{url}/v1/workflows/boston311/decisions",
        json={"ticket_id": ticket_id, "fields": fields},
        headers={"Authorization": f"Bearer {token}"},
    )


def round_of(stack: Stack, fault: str, number: int, seconds_before: float) -> None:
    with Load(stack, f"{fault}-{number}") as load:
        time.sleep(seconds_before)
        FAULTS[fault](stack)
        time.sleep(SECONDS_AFTER)
    url = stack.url()
    assert load.acknowledged, "the load never got an answer"
    assert load.refusals <= {503}, load.refusals
    client = httpx.Client(timeout=30)
    for ticket_id in sorted(load.sent):
        for _ in range(20):
            answer = send(client, url, stack.token, ticket_id)
            if answer.status_code == 200:
                break
            assert answer.status_code == 503, answer.text
            time.sleep(0.25)
        told = answer.json()
        assert told["revision"] == 1
        known = load.acknowledged.get(ticket_id)
        assert known in (None, told["decision_id"]), f"{ticket_id} has another decision"


def check_store(stack: Stack) -> None:
    """Both commands end with an error when anything is wrong."""
    assert stack.cli("audit", "verify")["intact"]
    replayed = stack.cli("replay")
    assert replayed["identical"] == replayed["replayed"] > 0


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_or_doubled_by_kill_9(stack: Stack) -> None:
    for number, fault in enumerate(FAULTS):
        round_of(stack, fault, number, SECONDS_BEFORE)
    check_store(stack)


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_nothing_is_lost_over_many_random_kills(stack: Stack) -> None:
    rounds = int(os.environ.get("TIEBREAK_FAULT_ROUNDS", "40"))
    chance = random.Random(20260101)
    for number in range(rounds):
        fault = chance.choice(sorted(FAULTS))
        round_of(stack, fault, 1_000 + number, chance.uniform(0.2, 1.5))
    check_store(stack)
