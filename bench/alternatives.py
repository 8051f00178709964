"""Alternatives with packages of their own, run by the environment that `make bench` makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.memory import watched

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv" / "alternatives" / "bin" / "python"


def run(module: str, **asked: object) -> dict[str, Any]:
    """What a module says when it is asked so, with the peak memory of its process."""
    if not PYTHON.exists():
        sys.exit("The alternatives are not installed: `make bench` does it.")
    process = subprocess.Popen(
        [PYTHON, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with watched(process.pid) as peak:
        said, _ = process.communicate(json.dumps(asked))
    if process.returncode:
        raise RuntimeError(f"{module} ended with {process.returncode}")
    return {**json.loads(said.splitlines()[-1]), "peak_memory_mib": peak.mib}
