"""FLAML as its documents show it: a budget in seconds, average precision, a split that is given."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
from flaml import AutoML

LABEL = "label."


def main() -> None:
    """Search, and leave the scores of the validation rows in the folder."""
    asked = json.loads(sys.stdin.read())
    folder = Path(asked["folder"])
    training, tuning, validation = (
        _read(folder / f"{part}.parquet") for part in ("training", "tuning", "validation")
    )
    begun = time.monotonic()
    found = AutoML()
    found.fit(
        training.drop(columns=LABEL),
        training[LABEL].astype(int),
        X_val=tuning.drop(columns=LABEL),
        y_val=tuning[LABEL].astype(int),
        task="classification",
        metric="ap",
        time_budget=asked["seconds"],
        n_jobs=asked["cores"],
        seed=0,
        verbose=0,
    )
    seconds = time.monotonic() - begun
    scores = found.predict_proba(validation.drop(columns=LABEL))[:, 1]
    np.save(folder / "scores.npy", scores.astype(np.float64))
    told = {
        "seconds": round(seconds, 1),
        "family": found.best_estimator,
        "best_after_seconds": round(found.time_to_find_best_model, 1),
    }
    print(json.dumps(told))


def _read(path: Path) -> pd.DataFrame:
    """Texts as they are, everything else as numbers; without pyarrow."""
    columns = pl.read_parquet(path).with_columns(pl.col(pl.Boolean).cast(pl.Float64))
    return pd.DataFrame(
        {
            each.name: each.to_list() if each.dtype == pl.String else each.to_numpy()
            for each in columns
        }
    )


if __name__ == "__main__":
    main()
