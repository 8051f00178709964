"""Asking a task worker, on whatever host, to run what is queued."""

from __future__ import annotations

import uuid

import structlog

from tiebreak.settings import Settings

TASK = "training.run"
CONNECT_SECONDS = 2.0

log = structlog.get_logger("tiebreak.training")


def send(settings: Settings, run_id: uuid.UUID) -> bool:
    """Send a queued run to the task workers; False where the queue is away.

    It is no loss then: what is queued stands in the database and is sent again each minute.
    """
    url = settings.redis.url
    if url is None:
        return False
    from celery import Celery  # not at the top: workers of the API seldom need it

    broker = url.get_secret_value()
    app = Celery("tiebreak", broker=broker, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        task_ignore_result=True,
        broker_transport_options={
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": CONNECT_SECONDS,
            "max_retries": 0,
        },
    )
    try:
        app.send_task(TASK, args=[str(run_id)], retry=False)
    except Exception as error:  # noqa: BLE001 - kombu's errors have no common family
        log.warning("queue away", run_id=str(run_id), kind=type(error).__name__)
        return False
    finally:
        app.close()
    return True
