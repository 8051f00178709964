"""Knobs as commands set them: what they cannot be is told by name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tiebreak.core.release_plan import ReleasePlan
from tiebreak.core.workflow import Knobs
from tiebreak.registry.candidates import KnobMistaken, set_knobs


@pytest.mark.parametrize("value", ["NaN", "inf", "-Infinity", "1e999"])
def test_a_knob_is_a_finite_number(value: str) -> None:
    for name in ("points.high", "points.critical", "audit_share"):
        with pytest.raises(KnobMistaken) as refused:
            set_knobs(Knobs(), {name: value})
        assert [problem.where for problem in refused.value.problems] == [name]


def test_a_limit_is_a_finite_number() -> None:
    with pytest.raises(ValidationError, match="finite"):
        ReleasePlan.model_validate({"gates": {"shift": {"psi": float("inf")}}})
