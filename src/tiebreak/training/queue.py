"""Asking a task worker to run what is queued."""

from __future__ import annotations

import uuid

from tiebreak.settings import Settings
from tiebreak.supervised import queue

TASK = "training.run"


def send(settings: Settings, run_id: uuid.UUID) -> bool:
    """Send a queued run to the task workers; False where the queue is away.

    It is no loss then: what is queued stands in the database and is sent again each minute.
    """
    return queue.send(settings.redis.url, TASK, run_id)
