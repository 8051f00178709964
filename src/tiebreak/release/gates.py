"""The gates before canary and promotion: each says pass, fail or no evidence, and all must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tiebreak.core.release_plan import Gates
from tiebreak.release import gates_origin, gates_quality, gates_shadow
from tiebreak.release.gate_results import Gathered, Result

ALWAYS: Final[tuple[Callable[[Gathered], Result], ...]] = (
    gates_origin.current,
    gates_origin.signature,
    gates_shadow.floors,
    gates_origin.canary,
)
"""The gates that no workflow leaves out, because they have no limits."""

LIMITED: Final[Mapping[str, Callable[[Gathered, Any], Result]]] = {
    "backtest": gates_origin.backtest,
    "volume": gates_shadow.volume,
    "labels": gates_shadow.labels,
    "errors": gates_shadow.errors,
    "replay": gates_origin.replay,
    "pr_auc": gates_quality.pr_auc,
    "auc": gates_quality.auc,
    "recall": gates_quality.recall,
    "calibration": gates_quality.calibration,
    "slices": gates_quality.slices,
    "leakage": gates_quality.leakage,
    "shift": gates_quality.shift,
    "flips": gates_shadow.flips,
    "reviewed_flips": gates_shadow.reviewed_flips,
    "latency": gates_shadow.latency,
}
"""The gates whose limits stand in the workflow, by their names there."""


def judge(gathered: Gathered) -> list[Result]:
    """What every gate of the workflow says, in the order in which they are shown."""
    limits = limits_of(gathered.plan.gates)
    always = [gate(gathered) for gate in ALWAYS]
    return always + [gate(gathered, limits[n]) for n, gate in LIMITED.items() if n in limits]


def limits_of(gates: Gates) -> dict[str, Any]:
    """The limits of the gates that are not left out."""
    return {name: limits for name, limits in gates if limits is not None}
