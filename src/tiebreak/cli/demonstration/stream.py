"""The demo's live stream: tickets over HTTP with a key, some at a time, each one timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tiebreak.errors import Unavailable

CONNECTIONS = 16
OK = 200
JSON = {"Content-Type": "application/json"}


class StreamRefused(Unavailable):
    """The API did not decide a live ticket."""

    code = "stream_refused"


@dataclass
class Stream:
    """What came back: decisions in the order of their answers, and how long each one took."""

    decisions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    latencies: list[float] = field(default_factory=list[float])
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Decisions a second."""
        return len(self.decisions) / self.seconds

    def latency_ms(self, share: float) -> float:
        """The latency that this share of the answers did not exceed, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1e3


async def send(
    client: httpx.AsyncClient,
    workflow: str,
    bodies: Sequence[bytes],
    progress: Callable[[float], None],
) -> Stream:
    """Send every ticket, `CONNECTIONS` at a time. Raises `StreamRefused`."""
    stream = Stream()
    waiting, path = iter(bodies), f"/v1/workflows/{workflow}/decisions"
    begun = time.perf_counter()

    async def worker(bodies_left: Iterator[bytes]) -> None:
        for body in bodies_left:
            sent = time.perf_counter()
            response = await client.post(path, content=body, headers=JSON)
            if response.status_code != OK:
                raise StreamRefused(f"The API answered {response.status_code}: {response.text}")
            stream.latencies.append(time.perf_counter() - sent)
            stream.decisions.append(response.json())
            progress(len(stream.decisions) / len(bodies))

    await asyncio.gather(*(worker(waiting) for _ in range(CONNECTIONS)))
    stream.seconds = time.perf_counter() - begun
    return stream
