"""Explanations of a LightGBM model, beside the ones that LightGBM computes itself."""

from __future__ import annotations

from typing import Any

from bench.explain import compared


def run() -> dict[str, Any]:
    """Rows explained per processor-second of both, and how far apart they are."""
    return compared("lightgbm", "LightGBM pred_contrib")
