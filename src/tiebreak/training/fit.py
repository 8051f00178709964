"""Fits the trees of a family of boosters: one thread, stopped early on later rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, assert_never

import numpy as np
from numpy.typing import NDArray

from tiebreak.core.workflow import FamilyChoice
from tiebreak.errors import InvalidInput
from tiebreak.training.trees import Forest

Progress = Callable[[str, float], None]
Family = Literal["xgboost", "lightgbm", "hist_gradient_boosting", "ebm"]
FAMILIES: tuple[Family, ...] = ("xgboost", "lightgbm", "hist_gradient_boosting")  # always here
DEEPEST = 8


class TooDeep(InvalidInput):
    """Trees may be 1 to 8 levels deep: explanation tables double with each level."""

    code = "max_depth_unfit"


@dataclass(frozen=True)
class Parameters:
    """How to train; what changes the model stands in the manifest.

    Rows with `as_of` and label known before `valid_from` train, the last `tune_share` of them in
    time stop the training and calibrate; rows from `valid_from` on only evaluate, and judge
    between the families where `family` is `best` and nothing is tuned.

    With `tune_from` the rows from then on stop and calibrate instead, and rows before it train
    only where their label was known by then.

    Rows with `as_of` before `train_from` are left out: what was so long ago is no longer so.

    `trials` or `tune_seconds` have the parameters searched; the manifest tells the number of
    trials that were made, by which such a run is repeated. `waived` names features whose leak is
    accepted, and why. `is_compared` has a report made, in which `reviews_a_day` (None: for a
    tenth of the tickets) is what people can review.
    """

    valid_from: datetime
    family: FamilyChoice = "xgboost"
    seed: int = 0
    rounds: int = 300
    patience_rounds: int = 30
    max_depth: int = 6
    learning_rate: float = 0.1
    min_child_weight: float = 5.0
    row_share: float = 0.9
    feature_share: float = 0.9
    l2: float = 1.0
    tune_share: float = 0.2
    train_from: datetime | None = None
    tune_from: datetime | None = None
    trials: int = 0
    tune_seconds: float | None = None
    waived: Mapping[str, str] = field(default_factory=dict[str, str])
    is_compared: bool = False
    reviews_a_day: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_depth <= DEEPEST:
            raise TooDeep(max_depth=self.max_depth)

    @property
    def is_tuned(self) -> bool:
        """Whether parameters are searched."""
        return self.trials > 0 or self.tune_seconds is not None

    def listed(self) -> dict[str, Any]:
        """What a manifest says: nothing of time, nothing of what leaves the model as it is."""
        aside = ("tune_seconds", "is_compared", "reviews_a_day")
        told = {name: value for name, value in asdict(self).items() if name not in aside}
        for name in ("train_from", "tune_from"):
            if told[name] is None:
                del told[name]  # so that the manifest, and the bytes, stay what they were
        return told


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows for fitting: features x (n, f), targets y (n,), weights (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    weights: NDArray[np.float64]


class Booster(Protocol):
    """A trained binary logistic model in its library's own form; NaN is a missing value."""

    @property
    def library(self) -> str:
        """The distribution that trained it."""
        ...

    @property
    def part(self) -> str:
        """What its dump is called in a bundle."""
        ...

    def margins(self, x: NDArray[np.float32]) -> NDArray[np.floating]:
        """Raw margins (n,) of the rows of x (n, f)."""
        ...

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.floating]:
        """The library's own SHAP values (n, f + 1) of the rows of x (n, f), base value last."""
        ...

    def forest(self) -> Forest:
        """Its trees."""
        ...

    def dump(self) -> bytes:
        """The library's own file of it."""
        ...


def fit(
    family: Family, training: Rows, tuning: Rows, parameters: Parameters, progress: Progress
) -> Booster:
    """A booster of the family, cut off at the round that was best on the tuning rows."""
    # each library is loaded only where it trains
    if family == "xgboost":
        from tiebreak.training.xgboost_booster import XgboostBooster

        return XgboostBooster.fit(training, tuning, parameters, progress)
    if family == "lightgbm":
        from tiebreak.training.lightgbm_booster import LightgbmBooster

        return LightgbmBooster.fit(training, tuning, parameters, progress)
    if family == "hist_gradient_boosting":
        from tiebreak.training.histogram_booster import HistogramBooster

        return HistogramBooster.fit(training, tuning, parameters, progress)
    if family == "ebm":
        from tiebreak.training.ebm_booster import EbmBooster

        return EbmBooster.fit(training, tuning, parameters, progress)
    assert_never(family)
