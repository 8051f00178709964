"""What runs on a data folder now: its supervisor's own record, and how its servers are stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import orjson

from tiebreak.embedded import postgres, valkey
from tiebreak.embedded.state import holder

RECORD = "running.json"


class ProgramRecord(TypedDict):
    """One supervised program, as `tiebreak status` reads it."""

    name: str
    pid: int | None
    is_up: bool
    restarts: int
    last_end: str


class Record(TypedDict):
    """What a supervisor writes of itself."""

    pid: int
    host: str
    port: int
    programs: list[ProgramRecord]


def read_record(data_dir: Path) -> Record | None:
    """What the running supervisor wrote of itself; None without one."""
    pid = holder(data_dir)
    try:
        record: Record = orjson.loads((data_dir / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    return record if record["pid"] == pid else None


def write_record(data_dir: Path, record: Record) -> None:
    """Replace the supervisor's record in one step."""
    draft = data_dir / f".{RECORD}"
    draft.write_bytes(orjson.dumps(record))
    draft.rename(data_dir / RECORD)


def remove_record(data_dir: Path) -> None:
    """Say that nothing is supervised any more."""
    (data_dir / RECORD).unlink(missing_ok=True)


def stop_services(data_dir: Path) -> list[str]:
    """Stop the data folder's servers, queue first; the names of those that ran."""
    stopped = ["valkey"] if valkey.stop(data_dir) else []
    return [*stopped, "postgres"] if postgres.stop(data_dir) else stopped
