"""Which feature of the workflow each input of a legacy model is.

By name, where the model knows names that are the workflow's. Else by a mapping file in YAML or
JSON: a list in the order of the inputs, or an object by name; each entry is a feature's name, or

    {feature: NAME, missing: NUMBER, codes: {VALUE: NUMBER}, unseen: NUMBER}

`missing` is what the old system sent for a missing value where the model takes none; `codes` what
it sent for the values of a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tiebreak.core.features import FeaturePlan
from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import Workflow
from tiebreak.errors import InvalidInput, Problem
from tiebreak.training.legacy.reading import Code, Told


class MappingUnfit(InvalidInput):
    """The inputs of the model cannot be mapped on features of the workflow."""

    code = "mapping_unfit"


class Entry(BaseModel):
    """One input in a mapping file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    missing: float | None = None
    codes: dict[str, float] | None = None
    unseen: float | None = None


@dataclass(frozen=True)
class Input:
    """One input: the feature that it is, and what stands for values the model does not take."""

    name: str
    feature: str
    missing: Code = None
    unseen: Code = None
    codes: Mapping[str, Code] | None = None


_FILE = TypeAdapter[Any](list[str | Entry] | dict[str, str | Entry])


def read_mapping(text: str) -> Sequence[str | Entry] | Mapping[str, str | Entry]:
    """A mapping file; raises MappingUnfit."""
    try:
        return _FILE.validate_python(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise MappingUnfit(
            "The mapping is neither a list of features nor an object from input to feature.",
            hint=str(error).splitlines()[0],
        ) from None


def map_inputs(
    told: Told,
    mapping: Sequence[str | Entry] | Mapping[str, str | Entry] | None,
    workflow: Workflow,
) -> list[Input]:
    """The inputs in the model's order; raises MappingUnfit, which names every one that fails.

    Inputs that no tree reads need no feature and get the empty name.
    """
    entries = _entries(told, mapping)
    kinds = FeaturePlan(workflow).kinds()
    problems: list[Problem] = []
    for place, (name, entry) in enumerate(entries):
        if place not in told.used:
            continue
        if entry is None or entry.feature not in kinds:
            wanted = name if entry is None else entry.feature
            hint = did_you_mean(wanted, list(kinds)) or "Name its feature with --map FILE."
            said = f"{workflow.name} has no feature {wanted!r}"
            problems.append(Problem(f"inputs.{name}", "no_such_feature", said, hint))
        elif kinds[entry.feature] == "text":
            said = "a text feature cannot be an input"
            problems.append(Problem(f"inputs.{name}", "text_feature", said))
    if problems:
        raise MappingUnfit(
            hint="`tiebreak workflow show` lists features; docs/howto/import-a-legacy-model.md "
            "shows mapping files.",
            problems=tuple(problems),
        )
    return [
        Input(name, "")
        if entry is None
        else Input(name, entry.feature, entry.missing, entry.unseen, entry.codes)
        for name, entry in entries
    ]


def _entries(
    told: Told, mapping: Sequence[str | Entry] | Mapping[str, str | Entry] | None
) -> list[tuple[str, Entry | None]]:
    names = told.inputs
    count = names if isinstance(names, int) else len(names)
    if isinstance(mapping, Sequence) and len(mapping) != count:
        raise MappingUnfit(f"The mapping lists {len(mapping)} inputs; the model has {count}.")
    if isinstance(names, int):
        if not isinstance(mapping, Sequence):
            raise MappingUnfit(
                f"The model knows no names of its {count} inputs.",
                hint="Give a list of features in their order with --map FILE.",
            )
        return [(f"{place}", _entry(entry)) for place, entry in enumerate(mapping)]
    if isinstance(mapping, Sequence):
        return [(n, _entry(entry)) for n, entry in zip(names, mapping, strict=True)]
    unknown = sorted((mapping or {}).keys() - set(names))
    if unknown:
        raise MappingUnfit(
            f"The model has no input {', '.join(unknown)}.",
            hint=f"Its inputs are {', '.join(names)}.",
        )
    return [(n, _entry((mapping or {}).get(n, n))) for n in names]


def _entry(given: str | Entry) -> Entry:
    return Entry(feature=given) if isinstance(given, str) else given
