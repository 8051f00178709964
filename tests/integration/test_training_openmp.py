"""LightGBM trains on a machine without OpenMP library, and what it trains has the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sample_models import parameters, snapshot

from tiebreak.bundles.format import pack
from tiebreak.training.openmp import NAME
from tiebreak.training.train import train

ROOT = Path(__file__).parents[2]
TRAIN = """
from tests.integration.test_training_openmp import trained
print(trained())
"""


def trained() -> str:
    """The digest of a small LightGBM model."""
    chosen = parameters(family="lightgbm")
    result = train(snapshot(), chosen, lambda *_: None, fingerprint="here")
    return hashlib.sha256(pack(result.parts)).hexdigest()


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """An environment in which the linker finds no usable OpenMP library."""
    (tmp_path / NAME).write_text("not a library")
    return {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}


def python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_library_alone_does_not_load_there(bare: dict[str, str]) -> None:
    done = python("import lightgbm", bare)
    assert done.returncode == 1
    assert NAME in done.stderr


@pytest.mark.full
def test_training_there_gives_the_same_bytes(bare: dict[str, str]) -> None:
    done = python(TRAIN, bare)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == trained()
