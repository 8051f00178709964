"""Run benchmarks: `python -m bench [names]`; all of them without names.

Each writes one object under its name into `bench/results.json` and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

NAMES = (
    "start",
    "online",
    "bulk",
    "explain",
    "explain_lightgbm",
    "replay",
    "verify",
    "backtest",
    "history",
    "demote",
    "gates",
    "shadow",
    "training",
)
RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Run the named benchmarks one after the other."""
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"some of {', '.join(NAMES)}")
    names = parser.parse_args().names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}")
    for name in names:
        print(f"{name} …", file=sys.stderr, flush=True)
        begun = time.monotonic()
        found = import_module(f"bench.{name}").run()
        found["machine"] = {"cores": len(os.sched_getaffinity(0)), "cpu": _cpu()}
        keep(name, found)
        print(json.dumps({name: found}, indent=2), flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return 0


def keep(name: str, found: dict[str, object]) -> None:
    """Put one benchmark's figures among the others."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = found
    ordered = {known: results[known] for known in NAMES if known in results}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


if __name__ == "__main__":
    sys.exit(main())
