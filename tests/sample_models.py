"""A small workflow, tickets drawn at random, and a model trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import xgboost as xgb

from tiebreak.core.workflow import FamilyChoice, Field, FieldType, Label, RowFeature, Workflow
from tiebreak.training.dataset import Snapshot
from tiebreak.training.fit import Booster, Parameters
from tiebreak.training.lightgbm_booster import LightgbmBooster, lgb
from tiebreak.training.xgboost_booster import XgboostBooster

START = datetime(2025, 1, 1, tzinfo=UTC)
VALID_FROM = START + timedelta(days=300)
METHODS = ("boring", "hand", "plough", "trencher")
WORDS = ("dig", "near", "the", "gas", "main", "on", "oak", "elm", "street", "corner", "please")

WORKFLOW = Workflow(
    name="sample",
    title="Sample",
    time="opened_at",
    fields=(
        Field(name="opened_at", type=FieldType.TIMESTAMP),
        Field(name="depth", type=FieldType.NUMBER),
        Field(name="members", type=FieldType.INTEGER),
        Field(name="is_urgent", type=FieldType.BOOLEAN),
        Field(name="method", type=FieldType.TEXT),
        Field(name="city", type=FieldType.TEXT),
        Field(name="remarks", type=FieldType.TEXT),
    ),
    outcome_fields=(Field(name="damaged", type=FieldType.BOOLEAN),),
    features=(
        RowFeature(name="depth_m", sql="depth"),
        RowFeature(name="member_count", sql="members"),
        RowFeature(name="urgent", sql="is_urgent"),
        RowFeature(name="dig_method", sql="method", kind="category"),
        RowFeature(name="town", sql="city", kind="category"),
        RowFeature(name="said", sql="remarks", kind="text"),
    ),
    label=Label(name="damage", sql="damaged", maturity_days=30),
)


def frame_of(rows: int, seed: int) -> pl.DataFrame:
    """Features by name, with missing values in each column."""
    random = np.random.default_rng(seed)

    def holed(values: list[object]) -> list[object]:
        return [
            None if hole else v for v, hole in zip(values, random.random(rows) < 0.05, strict=True)
        ]

    return pl.DataFrame(
        {
            "depth_m": pl.Series(holed(random.gamma(2.0, 0.8, rows).tolist()), dtype=pl.Float64),
            "member_count": pl.Series(holed(random.integers(0, 12, rows).tolist()), dtype=pl.Int64),
            "urgent": pl.Series(holed((random.random(rows) < 0.2).tolist()), dtype=pl.Boolean),
            "dig_method": pl.Series(holed(random.choice(METHODS, rows).tolist()), dtype=pl.String),
            "town": pl.Series(
                holed([f"town {i}" for i in random.zipf(1.5, rows) % 97]), dtype=pl.String
            ),
            "said": pl.Series(holed(_sayings(random, rows)), dtype=pl.String),
        }
    )


def _sayings(random: np.random.Generator, rows: int) -> list[object]:
    """Up to eight words each, some of them twice, and a number that no other text holds."""
    counts = random.integers(0, 8, rows)
    return [" ".join(random.choice(WORDS, n)) + f" {i}x{i}" for i, n in enumerate(counts)]


def snapshot(rows: int = 3_000, seed: int = 0) -> Snapshot:
    """Tickets over a year, whose label depends on depth, method, urgency and a word."""
    frame = frame_of(rows, seed)
    odds = (
        frame["depth_m"].fill_null(1.0) * 0.8
        + (frame["dig_method"].fill_null("") == "boring").cast(pl.Float64) * 1.5
        + frame["urgent"].fill_null(value=False).cast(pl.Float64) * frame["depth_m"].fill_null(0)
        + frame["said"].fill_null("").str.contains("gas").cast(pl.Float64)
        - 3.7
    )
    chance = 1.0 / (1.0 + np.exp(-odds.to_numpy()))
    label = np.random.default_rng(seed + 1).random(rows) < chance
    minutes = np.linspace(0, 365 * 24 * 60, rows)
    as_of = [START + timedelta(minutes=float(m)) for m in minutes]
    return Snapshot(
        workflow=WORKFLOW,
        frame=frame,
        label=pl.Series("label", label),
        as_of=pl.Series("as_of", as_of, dtype=pl.Datetime("us", "UTC")),
        data_hash=f"sample {rows} {seed}",
    )


def parameters(
    rounds: int = 40, max_depth: int = 5, seed: int = 7, family: FamilyChoice = "xgboost"
) -> Parameters:
    """Parameters that train in a moment."""
    return Parameters(
        valid_from=VALID_FROM, family=family, rounds=rounds, max_depth=max_depth, seed=seed
    )


def native(parts: Mapping[str, bytes]) -> Booster:
    """The booster in a bundle's parts, as its library reads it."""
    if XgboostBooster.part in parts:
        return XgboostBooster(xgb.Booster(model_file=bytearray(parts[XgboostBooster.part])))
    return LightgbmBooster(lgb.Booster(model_str=parts[LightgbmBooster.part].decode()))
