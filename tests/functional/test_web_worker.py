"""Worker processes: a shared port, metrics in total, draining, and logs without personal data."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from bench.load import Load
from bench.load import run as send
from prometheus_client.parser import text_string_to_metric_families
from tests.databases import DatabaseUrls
from tests.functional.serving import (
    TICKET,
    environment,
    prepare,
    settings_for,
    wait_until_served,
)

from tiebreak.access.roles import Role
from tiebreak.secret_files import ensure_secrets
from tiebreak.settings import Keyring, Settings
from tiebreak.supervised import headcount, inboxes
from tiebreak.supervised.headcount import ABSENT, Headcount
from tiebreak.web import worker

PATH = "/v1/workflows/repairs/decisions"
MARKER = "zzmarkerzz"


@dataclass
class Workers:
    """Worker processes on one port."""

    settings: Settings
    token: str
    folder: Path
    listener: socket.socket
    headcount: int = field(default_factory=lambda: headcount.create(4))
    inboxes: list[int] = field(default_factory=lambda: inboxes.create(4))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def start(self, count: int) -> None:
        """Start more workers and wait until they serve."""
        handle, before = self.listener.fileno(), len(self.processes)
        for _ in range(count):
            place = str(len(self.processes))
            with (self.folder / f"log{len(self.processes)}").open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "tiebreak.web.worker", "--fd", str(handle)),
                            *("--headcount-fd", str(self.headcount), "--place", place),
                            *("--inbox-fds", ",".join(map(str, self.inboxes))),
                        ],
                        env=environment(self.settings),
                        pass_fds=[handle, self.headcount, *self.inboxes],
                        stderr=log,
                    )
                )
        wait_until_served(self.url, "/readyz", 60)
        deadline = time.monotonic() + 60
        while ABSENT in self.told()[before : before + count]:
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def told(self) -> list[int]:
        """How many connections each worker says it holds."""
        return [each.connections for each in Headcount(self.headcount, 0).everybody()]

    def logs(self) -> list[bytes]:
        """What each worker wrote to standard error."""
        return [(self.folder / f"log{i}").read_bytes() for i in range(len(self.processes))]

    def post(self, ticket_id: str, **fields: Any) -> httpx.Response:
        """Send a ticket on a connection of its own."""
        ticket = {"ticket_id": ticket_id, "fields": {**TICKET, **fields}}
        return httpx.post(self.url + PATH, json=ticket, headers=self.headers, timeout=30)


@pytest.fixture
def workers(database_urls: DatabaseUrls, tmp_path: Path) -> Generator[Workers]:
    settings = settings_for(database_urls, tmp_path)
    ensure_secrets(settings.secrets_dir, is_new=True)
    tokens = prepare(database_urls, Keyring.load(settings))
    found = Workers(settings, tokens[Role.SERVICE], tmp_path, worker.listen("127.0.0.1", 0))
    yield found
    for process in found.processes:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
    found.listener.close()
    for number in (found.headcount, *found.inboxes):
        os.close(number)


def counted(text: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "tiebreak_decisions_total"
    )


@pytest.mark.full
def test_two_workers_share_a_port_and_every_scrape_tells_the_total(workers: Workers) -> None:
    workers.start(2)
    for number in range(40):
        assert workers.post(f"t{number}").status_code == 200
    files = list((workers.settings.data_dir / "metrics").glob("counter_*.db"))
    assert len(files) == 2
    for _ in range(6):
        assert counted(httpx.get(workers.url + "/metrics").text) == 40
    workers.processes[0].kill()
    workers.processes[0].wait()
    assert workers.post("after").status_code == 200
    assert counted(httpx.get(workers.url + "/metrics").text) == 41


@pytest.mark.full
def test_a_worker_that_comes_later_takes_the_connections_that_come_later(workers: Workers) -> None:
    def open_more(count: int, total: int) -> None:
        clients.extend(
            socket.create_connection(workers.listener.getsockname()) for _ in range(count)
        )
        deadline = time.monotonic() + 30
        while sum(held()) < total:
            assert time.monotonic() < deadline, held()
            time.sleep(0.05)

    def held() -> list[int]:
        port = workers.listener.getsockname()[1]
        return [
            sum(
                each.status == psutil.CONN_ESTABLISHED and each.laddr.port == port
                for each in psutil.Process(process.pid).net_connections("tcp")
            )
            for process in workers.processes
        ]

    clients = list[socket.socket]()
    workers.start(1)
    open_more(6, 6)
    workers.start(1)
    open_more(10, 16)
    assert held() == [8, 8]
    for client in clients:
        client.close()


@dataclass
class Callers:
    """Eight who send one ticket after the other, each on a connection that it keeps."""

    answered: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failed: list[object] = field(default_factory=list[object])
    is_over: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def of(cls, workers: Workers) -> Generator[Callers]:
        callers = cls()
        threads = [threading.Thread(target=callers._call, args=(workers, i)) for i in range(8)]
        for thread in threads:
            thread.start()
        try:
            yield callers
        finally:
            callers.is_over.set()
            for thread in threads:
                thread.join(10)

    def _call(self, workers: Workers, caller: int) -> None:
        number = 0
        with httpx.Client(base_url=workers.url, headers=workers.headers, timeout=30) as client:
            while not self.is_over.is_set():
                ticket = {"ticket_id": f"w{caller}-{number}", "fields": dict(TICKET)}
                try:
                    response = client.post(PATH, json=ticket)
                    assert response.status_code == 200, response.text
                except (httpx.TransportError, AssertionError) as error:
                    self.failed.append(error)
                    return
                self.answered.append(response.json())
                number += 1


def until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_few_callers_meet_in_one_worker_and_move_on_when_it_stops(workers: Workers) -> None:
    workers.start(2)
    with Callers.of(workers) as callers:
        until(lambda: workers.told()[:2] == [8, 0])
        since = len(callers.answered)
        until(lambda: len(callers.answered) > since + 100)
        assert workers.told()[:2] == [8, 0]
        workers.processes[0].send_signal(signal.SIGTERM)
        assert workers.processes[0].wait(20) is not None
        until(lambda: workers.told()[:2] == [ABSENT, 8])
        since = len(callers.answered)
        until(lambda: len(callers.answered) > since + 100)
    assert callers.failed == []


def test_a_connection_stays_where_a_part_of_a_request_has_come(workers: Workers) -> None:
    workers.start(2)
    body = orjson.dumps({"ticket_id": "t", "fields": dict(TICKET)})
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {workers.token}\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = (head + kind).encode() + body
    with Callers.of(workers) as callers:
        until(lambda: workers.told()[:2] == [8, 0])
        for _ in range(60):
            with socket.create_connection(workers.listener.getsockname(), timeout=10) as connection:
                connection.sendall(request + request[:20])
                assert b" 200 OK" in connection.recv(65536)
                connection.sendall(request[20:])
                assert b" 200 OK" in connection.recv(65536)
    assert callers.failed == []


def test_many_callers_spread_over_the_workers(workers: Workers, tmp_path: Path) -> None:
    workers.start(1)
    (tmp_path / "fields").write_bytes(orjson.dumps(TICKET))
    load = Load(
        port=workers.listener.getsockname()[1],
        path=PATH,
        fields_file=str(tmp_path / "fields"),
        connections=100,
        seconds=12,
        headers=workers.headers,
    )
    found: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: found.append(send(load)))
    thread.start()
    until(lambda: workers.told()[0] == 100)
    workers.start(1)
    until(lambda: min(workers.told()[:2]) >= 45)
    thread.join()
    assert found[0]["failed"] == 0


def test_a_worker_that_is_told_to_stop_answers_what_it_has_taken(workers: Workers) -> None:
    workers.start(1)
    with Callers.of(workers) as callers:
        time.sleep(1)
        workers.listener.close()
        started = time.monotonic()
        workers.processes[0].send_signal(signal.SIGTERM)
        workers.processes[0].wait(20)
        assert time.monotonic() - started < workers.settings.api.drain_seconds
    answered = callers.answered
    assert len(answered) > 50
    assert not any(isinstance(error, (httpx.ReadError, AssertionError)) for error in callers.failed)
    workers.listener = worker.listen("127.0.0.1", 0)
    workers.start(1)
    for answer in answered[:: len(answered) // 40]:
        path = f"/v1/decisions/{answer['decision_id']}"
        assert httpx.get(workers.url + path, headers=workers.headers).json() == answer


def test_a_request_on_its_way_when_a_worker_stops_is_answered(workers: Workers) -> None:
    workers.start(1)
    with httpx.Client(base_url=workers.url, headers=workers.headers, timeout=30) as client:
        first = client.post(PATH, json={"ticket_id": "t1", "fields": dict(TICKET)})
        assert "connection" not in first.headers
        workers.processes[0].send_signal(signal.SIGTERM)
        time.sleep(0.3)
        last = client.post(PATH, json={"ticket_id": "t2", "fields": dict(TICKET)})
    assert last.status_code == 200
    assert last.headers["connection"] == "close"
    assert workers.processes[0].wait(20) is not None


def test_a_batch_is_told_where_it_was_interrupted(workers: Workers) -> None:
    workers.start(1)
    host, port = workers.listener.getsockname()
    head = (
        f"POST {PATH}:batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {workers.token}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    line = orjson.dumps({"ticket_id": "t", "fields": dict(TICKET)}) + b"\n"
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(head.encode() + f"{len(line):x}\r\n".encode() + line + b"\r\n")
        found = b""
        while b'"status":200' not in found:
            found += connection.recv(65536)
        workers.processes[0].send_signal(signal.SIGTERM)
        while part := connection.recv(65536):
            found += part
    assert b'{"line":2,"status":503' in found
    assert b'"code":"interrupted"' in found
    assert found.endswith(b"0\r\n\r\n")
    assert workers.processes[0].wait(20) is not None


@pytest.mark.full
def test_a_killed_worker_loses_no_acknowledged_decision(workers: Workers) -> None:
    workers.start(1)
    answered = [workers.post(f"t{number}").json() for number in range(20)]
    workers.processes[0].kill()
    workers.processes[0].wait()
    workers.start(1)
    for number, answer in enumerate(answered):
        assert workers.post(f"t{number}").json() == answer


def test_logs_are_json_with_ids_and_without_what_callers_send(workers: Workers) -> None:
    workers.start(1)
    good = workers.post(f"id-{MARKER}", remarks=f"flood {MARKER}")
    assert good.status_code == 200
    workers.post(f"id-{MARKER}", kind=MARKER)
    workers.post("x", **{MARKER: 1})
    base = {"headers": {**workers.headers, "X-Request-ID": MARKER, "User-Agent": MARKER}}
    httpx.get(f"{workers.url}/v1/workflows/repairs/tickets/{MARKER}?q={MARKER}", **base)
    httpx.get(f"{workers.url}/{MARKER}", **base)
    httpx.request(MARKER.upper(), f"{workers.url}/livez", **base)
    httpx.get(f"{workers.url}/v1/workflows", headers={"Authorization": f"Bearer {MARKER}"})
    content = orjson.dumps({"ticket_id": MARKER, "fields": {"kind": MARKER}}) + b"\n{" + b"\n"
    headers = {**workers.headers, "content-type": "application/x-ndjson"}
    httpx.post(f"{workers.url}{PATH}:batch", content=content, headers=headers)
    os.kill(workers.processes[0].pid, signal.SIGTERM)
    workers.processes[0].wait(20)
    (log,) = workers.logs()
    assert MARKER.encode() not in log.lower()
    assert workers.token[-64:].encode() not in log
    lines = [orjson.loads(line) for line in log.splitlines()]
    (decided,) = [
        line for line in lines if line.get("route") == "decide_ticket" and line["status"] == 200
    ]
    assert decided["event"] == "request"
    assert decided["decision_id"] == good.json()["decision_id"]
    assert decided["request_id"] == good.headers["x-request-id"]
    assert decided["key_id"] == workers.token.split("_")[1]
    assert {line["status"] for line in lines if line["event"] == "request"} >= {200, 401, 404, 422}
