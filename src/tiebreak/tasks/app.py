"""The Celery application: slow and timed work, one module a room.

Run it with `celery -A tiebreak.tasks.app worker -B --pool threads`. A task opens what it needs,
calls one function and answers with plain data; what it may do is in the function.
"""

from __future__ import annotations

from celery import Celery
from celery.schedules import crontab

from tiebreak.settings import Settings

RESULT_SECONDS = 24 * 3600
THREADS = 8  # training and backtests only wait in one, so that timed work has others
_settings = Settings.load()
_queue = None if _settings.redis.url is None else _settings.redis.url.get_secret_value()

app = Celery(
    "tiebreak",
    broker=_queue,
    backend=_queue,
    include=[
        "tiebreak.tasks.audit",
        "tiebreak.tasks.backtest",
        "tiebreak.tasks.store",
        "tiebreak.tasks.training",
    ],
)
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    result_serializer="json",
    result_expires=RESULT_SECONDS,
    task_acks_late=True,  # a task of a killed worker is run again; every task bears that
    task_reject_on_worker_lost=True,
    worker_concurrency=THREADS,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    timezone="UTC",
    beat_schedule_filename=str(_settings.data_dir / "beat-schedule"),
    beat_schedule={
        "audit checkpoint": {
            "task": "audit.checkpoint",
            "schedule": crontab(),
            "options": {"expires": 55},
        },
        "training runs that were left": {
            "task": "training.sweep",
            "schedule": crontab(),
            "options": {"expires": 55},
        },
        "backtests that were left": {
            "task": "backtest.sweep",
            "schedule": crontab(),
            "options": {"expires": 55},
        },
        "partitions ahead": {
            "task": "store.partitions",
            "schedule": crontab(minute=5, hour=0),
            "options": {"expires": 3600},
        },
    },
)
