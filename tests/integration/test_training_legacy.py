"""Legacy models: what converts gives the same scores; the rest is refused before or in the cage."""

from __future__ import annotations

import pytest
from sklearn.base import clone
from tests import legacy_models as legacy

from tiebreak.training.legacy.importing import Converted, LegacyFile, convert_file

WORKFLOW = legacy.SNAPSHOT.workflow


def converted(file: LegacyFile) -> Converted:
    return convert_file(WORKFLOW, file, legacy.SNAPSHOT)


@pytest.mark.parametrize("name", legacy.BARE)
def test_a_bare_model_converts(name: str) -> None:
    model = clone(legacy.BARE[name]).fit(legacy.numbers(), legacy.labels())
    made = converted(legacy.signed(model, legacy.NUMBERS))
    assert made.manifest["parity"]["score"] <= 1e-5


@pytest.mark.parametrize("name", legacy.PIPELINES)
def test_a_pipeline_of_numbers_converts(name: str) -> None:
    model = clone(legacy.PIPELINES[name]).fit(legacy.numbers(), legacy.labels())
    made = converted(legacy.signed(model, legacy.NUMBERS, compress=3))
    assert made.manifest["parity"]["score"] <= 1e-5


@pytest.mark.parametrize("name", legacy.MIXED)
def test_a_pipeline_with_categories_converts(name: str) -> None:
    model = clone(legacy.MIXED[name]).fit(legacy.mixed(), legacy.labels())
    made = converted(legacy.signed(model, [*legacy.NUMBERS, *legacy.CATEGORIES]))
    assert made.manifest["parity"]["score"] <= 1e-5
