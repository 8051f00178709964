"""Asking a task worker, on whatever host, to do what stands waiting."""

from __future__ import annotations

import uuid

import structlog
from pydantic import SecretStr

CONNECT_SECONDS = 2.0

log = structlog.get_logger("tiebreak.queue")


def send(url: SecretStr | None, task: str, run_id: uuid.UUID) -> bool:
    """Send a run that waits to the task workers; False where their queue is away.

    It is no loss then: what waits is kept, and sent again each minute.
    """
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
        app.send_task(task, args=[str(run_id)], retry=False)
    except Exception as error:  # noqa: BLE001 - kombu's errors have no common family
        log.warning("queue away", task=task, run_id=str(run_id), kind=type(error).__name__)
        return False
    finally:
        app.close()
    return True
