"""Clients of a whole Tiebreak, all at once: single tickets, many in one request, outcomes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
from tests.faults import boston
from tests.faults.ledger import Answer, Ledger, moment
from tests.faults.stacks import Stack

LINES = 80
VOLLEY_SECONDS = 3.0  # between bulk requests, which come together, so that batches grow large
PAUSE_SECONDS = 0.05
AWAY_SECONDS = 0.1
TIMEOUT_SECONDS = 60.0
REPEAT_SHARE = 0.1  # of the tickets sent: somebody has sent that ticket before
RETRY_SHARE = 0.5  # of what was not acknowledged is sent again until it is; the rest is left


@dataclass(frozen=True)
class Mix:
    """Of what kinds clients are, and what they send."""

    workflow: str
    fields: Callable[[random.Random, int], Answer]  # of the ticket with this number
    singles: int
    bulks: int = 0
    reporters: int = 0
    model_status: str = "scored"  # of every decision


BOSTON = Mix(boston.NAME, boston.fields, singles=2, bulks=4, reporters=1)


class Load:
    """The clients, for as long as the block runs; the ledger says what came of it."""

    def __init__(self, stack: Stack, mix: Mix, name: str, seed: int) -> None:
        self._stack = stack
        self._mix = mix
        self._name = name
        self._numbers = count()
        self._stop = threading.Event()
        self.ledger = Ledger(model_status=mix.model_status)
        self.failures: list[BaseException] = []
        runs = [self._single] * mix.singles + [self._bulk] * mix.bulks
        runs += [self._report] * mix.reporters
        self._threads = [
            threading.Thread(target=self._run, args=(run, random.Random(f"{seed}-{i}")))
            for i, run in enumerate(runs)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_SECONDS)

    def _run(self, client: Callable[[httpx.Client, random.Random], None], chance: Any) -> None:
        try:
            with httpx.Client(timeout=TIMEOUT_SECONDS) as http:
                http.headers["Authorization"] = f"Bearer {self._stack.token}"
                while not self._stop.is_set():
                    client(http, chance)
        except BaseException as error:
            self.failures.append(error)
            raise

    def _single(self, http: httpx.Client, chance: random.Random) -> None:
        """One ticket; if it is not acknowledged, sent again until it is, or left."""
        ticket = self._ticket(chance)
        while not self._stop.is_set():
            begun = moment()
            try:
                answer = http.post(self._path("decisions"), json=ticket)
            except httpx.HTTPError as error:
                self.ledger.broke_off(error)
                time.sleep(AWAY_SECONDS)
            else:
                if answer.status_code == 200:
                    self.ledger.decided("single", answer.json(), begun)
                    time.sleep(chance.uniform(0, PAUSE_SECONDS))
                    return
                self.ledger.refused(answer.status_code, answer.text)
                time.sleep(AWAY_SECONDS)
            if chance.random() > RETRY_SHARE:
                return

    def _bulk(self, http: httpx.Client, chance: random.Random) -> None:
        """Many tickets in one request; lines answered before it broke off count."""
        self._stop.wait(VOLLEY_SECONDS - time.monotonic() % VOLLEY_SECONDS)
        lines = [json.dumps(self._ticket(chance)) for _ in range(LINES)]
        while not self._stop.is_set():
            try:
                if self._send_lines(http, lines, moment()):
                    return
            except httpx.HTTPError as error:
                self.ledger.broke_off(error)
                time.sleep(AWAY_SECONDS)
            if chance.random() > RETRY_SHARE:
                return

    def _send_lines(self, http: httpx.Client, lines: list[str], begun: float) -> bool:
        """Whether every line was acknowledged."""
        answered = 0
        headers = {"Content-Type": "application/x-ndjson"}
        body = "\n".join(lines).encode()
        with http.stream(
            "POST", self._path("decisions:batch"), content=body, headers=headers
        ) as answer:
            if answer.status_code != 200:
                self.ledger.refused(answer.status_code, answer.read().decode())
                return False
            for line in answer.iter_lines():
                told = json.loads(line)
                if told["status"] == 200:
                    answered += 1
                    self.ledger.decided("bulk", told["decision"], begun)
                else:
                    self.ledger.refused(told["status"], line)
        return answered == len(lines)

    def _report(self, http: httpx.Client, chance: random.Random) -> None:
        """The outcome of a decided ticket, sent until it is acknowledged, or left."""
        known = self.ledger.decisions
        name = f"{self._name}-{chance.randrange(max(len(known), 1))}"
        if name not in known or name in self.ledger.reports:
            time.sleep(PAUSE_SECONDS)
            return
        report = {"kind": "outcome", "fields": {"slow_7d": chance.random() < 0.5}}
        self.ledger.reports[name] = report
        while not self._stop.is_set():
            begun = moment()
            try:
                answer = http.post(self._path(f"tickets/{name}/outcomes"), json=report)
            except httpx.HTTPError as error:
                self.ledger.broke_off(error)
                time.sleep(AWAY_SECONDS)
            else:
                if answer.status_code == 201:
                    self.ledger.told(name, answer.json(), begun)
                    time.sleep(chance.uniform(0, PAUSE_SECONDS))
                    return
                self.ledger.refused(answer.status_code, answer.text)
                time.sleep(AWAY_SECONDS)
            if chance.random() > RETRY_SHARE:
                return

    def _ticket(self, chance: random.Random) -> Answer:
        """A new ticket, or now and then one that somebody has sent before."""
        number = next(self._numbers)
        if number and chance.random() < REPEAT_SHARE:
            earlier = self.ledger.sent.get(f"{self._name}-{chance.randrange(number)}")
            if earlier is not None:
                return earlier
        ticket = {
            "ticket_id": f"{self._name}-{number}",
            "fields": self._mix.fields(chance, number),
        }
        self.ledger.send(ticket)
        return ticket

    def _path(self, end: str) -> str:
        """An address as the supervisor tells it now: a new start may take another port."""
        return f"{self._stack.address() or 'http://127.0.0.1:9'}/v1/workflows/{self._mix.workflow}/{end}"
