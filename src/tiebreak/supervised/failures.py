"""How a supervised process tells its parent why it did not do its work, and how that is read."""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping
from typing import Any

from tiebreak.errors import (
    Conflict,
    IntegrityFailure,
    InvalidInput,
    NotAllowed,
    NotFound,
    Problem,
    TiebreakError,
    Unavailable,
)
from tiebreak.supervised.limits import is_full

FAMILIES: Mapping[str, type[TiebreakError]] = {
    family.__name__: family
    for family in (InvalidInput, NotFound, Conflict, NotAllowed, Unavailable, IntegrityFailure)
}
_NO_MEMORY = (
    *("bad_alloc", "llocat", "MemoryError", "map segment", "start new thread"),
    *("pthread_create", "Resource temporarily unavailable"),
)


def told(error: TiebreakError) -> dict[str, Any]:
    """A refusal as the process tells it."""
    family = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in FAMILIES)
    return {
        "family": family,
        "code": error.code,
        "message": error.message,
        "hint": error.hint,
        "problems": [problem.as_dict() for problem in error.problems],
        "fields": dict(error.fields),
    }


def refusal(told: Mapping[str, Any]) -> TiebreakError:
    """The error that was told, of the same family and code."""
    family = FAMILIES[told["family"]]
    kind = type("Refusal", (family,), {"code": told["code"], "__doc__": told["message"]})
    return kind(
        told["message"],
        hint=told["hint"],
        problems=tuple(Problem(**problem) for problem in told["problems"]),
        **told["fields"],
    )


def crashed(error: BaseException) -> dict[str, Any]:
    """The kind of an unforeseen error and where it was met, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    places = [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in frames]
    return {"crashed": {"kind": type(error).__name__, "places": places}}


def is_short_of_memory(error: BaseException) -> bool:
    """Whether this process has met an error because it got no memory."""
    return isinstance(error, MemoryError) or lacks_memory(str(error)) or is_full(os.getpid())


def lacks_memory(text: str) -> bool:
    """Whether a library's message says that it got no memory."""
    return any(sign in text for sign in _NO_MEMORY)
