"""Proof that an exported model is the trained one; without it nothing is released."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.matrix import MISSING, UNSEEN
from tiebreak.core.model import Model
from tiebreak.errors import IntegrityFailure
from tiebreak.training.fit import Booster
from tiebreak.training.trees import Forest, Tree

TOLERANCE = 1e-5
EXPLAINED_ROWS = 256  # the libraries' own contributions are slow; margins are checked on all rows


class ExportRefused(IntegrityFailure):
    """The exported model does not give what the trained model gives."""

    code = "export_refused"


def prove_parity(
    model: Model, booster: Booster, forest: Forest, rows: NDArray[np.float32], seed: int
) -> dict[str, float]:
    """The largest differences found, all within TOLERANCE; ExportRefused otherwise.

    `rows` (n, f) are the validation rows. Beside them stand rows that reach every node with its
    feature at the threshold, one step of float32 below and above it, and missing; and rows with
    each category missing and unseen. Compared are margins, contributions + base value, and on
    a sample each contribution.
    """
    synthetic = np.concatenate(
        [threshold_rows(forest, rows, seed), category_rows(model, rows), _empty_row(rows)]
    )
    random = np.random.default_rng(seed)
    samples = [
        part[np.sort(random.choice(len(part), min(len(part), EXPLAINED_ROWS), replace=False))]
        for part in (rows, synthetic)
    ]
    differences = {
        "margin": max(_margin_difference(model, booster, part) for part in (rows, synthetic)),
        "sum": max(_sum_difference(model, booster, part) for part in (rows, synthetic)),
        "contribution": max(_contribution_difference(model, booster, part) for part in samples),
    }
    if not all(difference <= TOLERANCE for difference in differences.values()):
        raise ExportRefused(
            hint="Train with fewer rounds or a smaller learning rate, and report this.",
            margin=differences["margin"],
            sum=differences["sum"],
            contribution=differences["contribution"],
        )
    return {**differences, "rows": len(rows) + len(synthetic)}


def threshold_rows(forest: Forest, rows: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """For every node four rows that reach it: at its threshold, just below, above, missing."""
    random = np.random.default_rng(seed)
    found = [row for tree in forest.trees for row in _tree_rows(tree, rows, random)]
    return np.array(found, dtype=np.float32).reshape(-1, rows.shape[1])


def category_rows(model: Model, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first rows once more with each category missing, and with each unseen."""
    found = [np.zeros((0, rows.shape[1]), dtype=np.float32)]
    for place, spec in enumerate(model.features):
        for code in (MISSING, UNSEEN) if spec.kind == "category" else ():
            changed = rows[:64].copy()
            changed[:, place] = code
            found.append(changed)
    return np.concatenate(found)


def _empty_row(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.full((1, rows.shape[1]), np.nan, dtype=np.float32)


def _tree_rows(
    tree: Tree, rows: NDArray[np.float32], random: np.random.Generator
) -> Iterator[NDArray[np.float32]]:
    """Rows that reach each node of the tree, the other features taken from random rows."""
    stack: list[tuple[int, dict[int, float]]] = [(0, {})]
    while stack:
        node, wanted = stack.pop()
        left, right = int(tree.left[node]), int(tree.right[node])
        if left < 0:
            continue
        feature = int(tree.feature[node])
        below, at, above = _around(tree.threshold[node])
        for value in (at, below, above, np.float32(np.nan)):
            row = rows[random.integers(len(rows))].copy()
            row[list(wanted)] = list(wanted.values())
            row[feature] = value
            yield row
        stack.append((left, {**wanted, feature: below}))
        stack.append((right, {**wanted, feature: at}))


def _around(threshold: np.float32) -> NDArray[np.float32]:
    """Just below the threshold, at it, just above; beyond all features' range only NaN gets."""
    infinite = np.float32(np.inf)
    with np.errstate(over="ignore"):
        steps = [np.nextafter(threshold, -infinite), threshold, np.nextafter(threshold, infinite)]
    return np.where(np.isfinite(steps), steps, np.float32(np.nan)).astype(np.float32)


def _margin_difference(model: Model, booster: Booster, rows: NDArray[np.float32]) -> float:
    return _largest(model.margins(rows), booster.margins(rows))


def _sum_difference(model: Model, booster: Booster, rows: NDArray[np.float32]) -> float:
    sums = model.contributions(rows).sum(axis=1) + model.base_value
    return max(_largest(sums, booster.margins(rows)), _largest(sums, model.margins(rows)))


def _contribution_difference(model: Model, booster: Booster, rows: NDArray[np.float32]) -> float:
    native = booster.contributions(rows)
    return max(
        _largest(model.contributions(rows), native[:, :-1]),
        _largest(np.array([model.base_value]), native[:1, -1]),
    )


def _largest(ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """The largest difference; NaN counts as infinite."""
    differences = np.abs(ours.astype(np.float64) - theirs)
    return float(np.nan_to_num(differences, nan=np.inf).max(initial=0.0))
