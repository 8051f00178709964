"""Metrics for Prometheus, with totals over all worker processes.

Workers share a port, so a scrape reaches any one of them. Where a folder is given each worker
keeps its numbers in files there and every scrape adds up all files; without one the numbers of
this process are told.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import MultiProcessValue  # pyright: ignore[reportUnknownVariableType]

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def prepare(folder: Path) -> None:
    """Empty the folder that workers will share; for their supervisor, before it starts any."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


class Metrics:
    """The numbers of one worker; `folder` is shared with its siblings."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        if folder is not None:
            _share(folder)
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "tiebreak_http_requests_total",
            "Requests answered, by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "tiebreak_http_request_seconds",
            "Time from the request's head to the answer's end.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.decisions = Counter(
            "tiebreak_decisions_total",
            "Decisions answered, earlier ones told again included.",
            ("workflow", "band", "route", "model"),
            registry=registry,
        )
        self._batch_lines = Counter(
            "tiebreak_batch_lines_total",
            "Lines of batches, by the status of their answer.",
            ("workflow", "status"),
            registry=registry,
        )
        self._served: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._decided: dict[tuple[str, ...], Counter] = {}
        self._lines: dict[tuple[str, int], Counter] = {}
        self._queued = 0
        self._waiting = Gauge(
            "tiebreak_queue_waiting",
            "Submissions that wait to be admitted.",
            registry=registry,
            multiprocess_mode="livesum",
        )

        self.countersignatures_overdue = Gauge(
            "tiebreak_countersignatures_overdue",
            "Demotions that nobody has countersigned in time, as of the newest scrape.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )

    def served(self, route: str, status: int, seconds: Sequence[float]) -> None:
        """Count answered requests, each of which took so long."""
        children = self._served.get((route, status))
        if children is None:  # looking children up by label costs more than counting
            children = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._served[route, status] = children
        children[0].inc(len(seconds))
        for each in seconds:
            children[1].observe(each)

    def decided(self, answer: dict[str, Any]) -> None:
        """Count an answered decision."""
        key = (answer["workflow"], answer["band"], answer["route"], answer["model"]["status"])
        child = self._decided.get(key)
        if child is None:
            child = self._decided[key] = self.decisions.labels(*key)
        child.inc()

    def line(self, workflow: str, status: int) -> None:
        """Count an answered line of a batch."""
        child = self._lines.get((workflow, status))
        if child is None:
            child = self._lines[workflow, status] = self._batch_lines.labels(workflow, str(status))
        child.inc()

    def queued(self, waiting: int) -> None:
        """Tell how many submissions wait to be admitted."""
        if waiting != self._queued:
            self._queued = waiting
            self._waiting.set(waiting)

    def exposition(self) -> bytes:
        """All numbers in the text format, over all workers that share the folder."""
        registry = self._registry
        if self._folder is not None:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, path=str(self._folder))
        return generate_latest(registry)


def _share(folder: Path) -> None:
    """Make this process keep its numbers in the folder, and forget the gauges of dead ones.

    The client library takes the folder from the environment and decides when it is imported.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    pid = os.getpid()  # asked once: a worker never forks
    values.ValueClass = MultiProcessValue(lambda: pid)
    for file in folder.glob("gauge_live*.db"):
        if not Path("/proc", file.stem.rpartition("_")[2]).exists():
            file.unlink(missing_ok=True)
