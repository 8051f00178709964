"""Logs never stand in the way of what they tell about."""

from __future__ import annotations

import subprocess
import sys

import orjson
import pytest

PROGRAM = """
import logging, structlog
from tiebreak.settings import LogSettings
from tiebreak.web import logs
logs.configure(LogSettings())
for _ in range(1000):
    structlog.get_logger().info("event", text="x" * 100)
    logs.log_all("event", [{"text": "x" * 100}])
    logging.getLogger("library").warning("event")
print("went on")
"""

MANY = """
import structlog
from tiebreak.settings import LogSettings
from tiebreak.web import logs
logs.log_all("too_early", [{}])
logs.configure(LogSettings(level="LEVEL", format="FORMAT"))
structlog.get_logger().warning("before", route="a", odd={1, 2})
logs.log_all("request", ({"route": f"r{number}", "status": None} for number in range(100)))
structlog.get_logger().warning("after", route="b")
"""


def test_a_full_disk_stops_nobody_who_logs() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=full)
    assert b"went on" in done.stdout


def lines_of(level: str, form: str) -> list[bytes]:
    program = MANY.replace("LEVEL", level).replace("FORMAT", form)
    return subprocess.run([sys.executable, "-c", program], capture_output=True).stderr.splitlines()


def test_many_lines_at_once_are_in_order_and_as_any_other() -> None:
    lines = [orjson.loads(line) for line in lines_of("info", "json")]
    assert [line["route"] for line in lines] == ["a", *(f"r{number}" for number in range(100)), "b"]
    assert {line["event"] for line in lines} == {"before", "request", "after"}
    assert {line["level"] for line in lines[1:-1]} == {"info"}
    assert list(lines[1]) == ["route", "status", "event", "level", "timestamp"]
    assert lines[0]["odd"] == "{1, 2}"
    assert [line["timestamp"] for line in lines] == sorted(line["timestamp"] for line in lines)
    assert all(line["timestamp"].endswith("Z") for line in lines)


@pytest.mark.parametrize(("level", "count"), [("info", 102), ("warning", 2)])
def test_many_lines_at_once_are_for_people_too_and_have_a_level(level: str, count: int) -> None:
    lines = lines_of(level, "text")
    assert len(lines) == count
    assert level == "warning" or lines[1].endswith(b" info request route=r0")
