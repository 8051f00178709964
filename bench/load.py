"""The load: keep-alive HTTP clients on raw sockets, in a process of its own.

`python -m bench.load '{"port": …}'` sends for a bounded time and prints what it saw as JSON.
A client that costs little leaves the cores to what is measured.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

POLICIES_SECONDS = 0.1
_POLICY = re.compile(rb'"policy_hash":"([0-9a-f]{64})"')


@dataclass(frozen=True)
class Load:
    """What to send: POST `path` with the tickets of a file of JSON objects, each under a new id."""

    port: int
    path: str
    fields_file: str
    connections: int
    seconds: float
    warmup_seconds: float = 2.0
    id_prefix: str = "bench"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    requests_per_second: float = 0.0  # at random moments; 0: whenever an answer has come
    policies_file: str = ""  # keeps when the last answer by each policy came, in Unix seconds


def run(load: Load) -> dict[str, Any]:
    """Run the load in another process; requests a second and latencies in milliseconds."""
    command = [sys.executable, "-m", "bench.load", json.dumps(asdict(load))]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return json.loads(done.stdout)


class Tally:
    """Statuses and latencies of the answers that came after the warm-up."""

    def __init__(self, load: Load) -> None:
        self.since = time.perf_counter() + load.warmup_seconds
        self.until = self.since + load.seconds
        self.statuses: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.first_failure = ""

    def add(self, sent: float, now: float, status: int, head: bytes) -> None:
        if not self.since <= now <= self.until:
            return
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(now - sent)
        elif not self.first_failure:
            self.first_failure = head[:600].decode("latin-1")

    def summary(self, load: Load) -> dict[str, Any]:
        cuts = statistics.quantiles(self.latencies, n=100) if len(self.latencies) > 1 else [0] * 99
        return {
            "connections": load.connections,
            "seconds": load.seconds,
            "requests_per_second": round(len(self.latencies) / load.seconds, 1),
            "p50_ms": round(cuts[49] * 1e3, 2),
            "p99_ms": round(cuts[98] * 1e3, 2),
            "failed": self.statuses.total() - self.statuses[200],
            "first_failure": self.first_failure,
        }


class Policies:
    """When the last answer by each policy was received, kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: dict[str, float] = {}

    def add(self, answer: bytes) -> None:
        """Note an answer that has just come."""
        found = _POLICY.search(answer)
        if found is not None:
            self._last[found[1].decode()] = time.time()

    async def keep(self) -> None:
        """Write the file again and again, never half of it."""
        while True:
            await asyncio.sleep(POLICIES_SECONDS)
            whole = self._file.with_suffix(".new")
            whole.write_text(json.dumps(self._last))
            whole.replace(self._file)


class Requests:
    """The endless row of requests, each with its own ticket id."""

    def __init__(self, load: Load) -> None:
        self._fields = Path(load.fields_file).read_bytes().splitlines()
        self._prefix = load.id_prefix
        self._sent = 0
        lines = [f"POST {load.path} HTTP/1.1", "Host: bench", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in load.headers.items()]
        self._head = "\r\n".join([*lines, "Content-Length: "]).encode()

    def next(self) -> bytes:
        number = self._sent
        self._sent += 1
        body = b'{"ticket_id":"%b-%d","fields":%b}' % (
            self._prefix.encode(),
            number,
            self._fields[number % len(self._fields)],
        )
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


class Moments:
    """Random moments at a rate, at which tickets come, and the connections that are free.

    A ticket goes out on the connection that is free for the longest; while none is, it waits, and
    its wait counts.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due = time.perf_counter()
        self._waiting: deque[float] = deque()
        self._free: deque[Client] = deque()

    async def come(self, until: float) -> None:
        """Send a ticket at each moment."""
        while self._due < until:
            self._due += random.expovariate(self._rate)
            await asyncio.sleep(max(self._due - time.perf_counter(), 0))
            if self._free:
                self._free.popleft().send(self._due)
            else:
                self._waiting.append(self._due)

    def give(self, client: Client) -> None:
        """Let a connection that is free send the ticket that waits, or the next."""
        if self._waiting:
            client.send(self._waiting.popleft())
        else:
            self._free.append(client)


class Client(asyncio.Protocol):
    """One connection, which sends when the answer to the last request is whole, or at `moments`."""

    def __init__(
        self,
        requests: Requests,
        tally: Tally,
        done: asyncio.Future[None],
        moments: Moments | None,
        policies: Policies | None,
    ) -> None:
        self._requests = requests
        self._tally = tally
        self._policies = policies
        self._done = done
        self._moments = moments
        self._buffer = b""
        self._needed = 0
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server hung up"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._needed = end + 4 + _content_length(self._buffer[:end])
        if len(self._buffer) < self._needed:
            return
        now = time.perf_counter()
        self._tally.add(self._sent, now, int(self._buffer[9:12]), self._buffer)
        if self._policies is not None:
            self._policies.add(self._buffer)
        self._buffer, self._needed = b"", 0
        if now < self._tally.until:
            self._next()
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()

    def _next(self) -> None:
        if self._moments is None:
            self.send(time.perf_counter())
        else:
            self._moments.give(self)

    def send(self, due: float) -> None:
        """Send the next request, whose latency counts from when it was due."""
        self._sent = due
        if not self._transport.is_closing():
            self._transport.write(self._requests.next())


def _content_length(head: bytes) -> int:
    lower = head.lower()
    start = lower.index(b"content-length:") + 15
    end = lower.find(b"\r\n", start)
    return int(lower[start : end if end >= 0 else None])


async def _send_all(load: Load) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    requests, tally = Requests(load), Tally(load)
    ends: list[asyncio.Future[None]] = []
    moments = Moments(load.requests_per_second) if load.requests_per_second else None
    policies = Policies(Path(load.policies_file)) if load.policies_file else None
    keeping = None if policies is None else asyncio.create_task(policies.keep())
    for _ in range(load.connections):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        await loop.create_connection(
            lambda done=done: Client(requests, tally, done, moments, policies),
            "127.0.0.1",
            load.port,
        )
    if moments is not None:
        await moments.come(tally.until)
        for end in ends:
            if not end.done():
                end.set_result(None)
    await asyncio.gather(*ends)
    if keeping is not None:
        keeping.cancel()
    return tally.summary(load)


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_send_all(Load(**json.loads(sys.argv[1]))))))
