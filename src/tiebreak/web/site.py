"""What the handlers of one worker share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from redis.asyncio import Redis
from starlette.requests import Request

from tiebreak.audit.lanes import Lane
from tiebreak.decisions.service import DecisionService
from tiebreak.release.releases import Office
from tiebreak.settings import Keyring, Settings
from tiebreak.store.database import Database
from tiebreak.web.deadlines import Deadlines
from tiebreak.web.keycache import KeyCache
from tiebreak.web.metrics import Metrics
from tiebreak.web.tally import Tally

MOST_READERS = 4  # child processes that read bodies of tables, each of at most 1 GiB of memory


@dataclass(frozen=True, slots=True)
class Site:
    """One worker's settings, service, keys, numbers, lane for outcomes and office of releases."""

    settings: Settings
    keyring: Keyring
    service: DecisionService
    keys: KeyCache
    metrics: Metrics
    tally: Tally
    deadlines: Deadlines
    outcomes_lane: Lane
    office: Office  # its lane is for what people do to releases
    bulk: asyncio.Semaphore  # places in the queue for lines of batches
    queue: Redis | None = None  # asked for its health only
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_READERS))

    @property
    def db(self) -> Database:
        """The worker's database."""
        return self.service.db


def site_of(request: Request) -> Site:
    """The site that serves this request."""
    return request.scope["state"]["site"]
