"""Logs never stand in the way of what they tell about."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import logging, structlog
from tiebreak.settings import LogSettings
from tiebreak.web import logs
logs.configure(LogSettings())
for _ in range(1000):
    structlog.get_logger().info("event", text="x" * 100)
    logging.getLogger("library").warning("event")
print("went on")
"""


def test_a_full_disk_stops_nobody_who_logs() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full)
    assert b"went on" in done.stdout
