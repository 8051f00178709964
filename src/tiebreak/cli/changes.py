"""The options of commands that take a changed policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tiebreak.errors import InvalidInput
from tiebreak.registry.candidates import Changes

PolicyOption = Annotated[
    str | None, typer.Option("--policy", help="Hash of a stored policy, or its first digits.")
]
FolderOption = Annotated[
    Path | None,
    typer.Option("--workflow", metavar="PATH", help="A folder with edited rules and the rest."),
]
BundleOption = Annotated[
    str | None,
    typer.Option(
        "--bundle", help="Digest of a model bundle, or its first digits; `none`: rules alone."
    ),
]
KnobsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KNOB=VALUE", help="A knob; may be given again."),
]
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", min=1, max=256, help="Processes; default: one a usable core."),
]


class KnobUnreadable(InvalidInput):
    """A knob is set as NAME=VALUE."""

    code = "knob_unreadable"


def changes_of(
    policy: str | None, folder: Path | None, bundle: str | None, knobs: Sequence[str] | None
) -> Changes:
    """What these options ask for. Raises `KnobUnreadable`."""
    return Changes(policy, folder, bundle, _knobs(knobs or []))


def _knobs(given: Sequence[str]) -> dict[str, str]:
    knobs: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise KnobUnreadable(hint=f"Such as points.high=40, not {text!r}.")
        knobs[name.strip()] = value.strip()
    return knobs
