"""Did-you-mean: the known name that a mistaken one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST_NAME = 100  # comparing is quadratic, and no name of ours is longer


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, ignoring case; None when none is near enough."""
    if not name or len(name) > _LONGEST_NAME:
        return None
    by_folded = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known name, or the few that there are; "" when neither helps."""
    names = list(known)
    found = closest(name, names)
    if found is not None:
        return f"did you mean `{found}`?"
    if 0 < len(names) <= 8:
        return "known: " + ", ".join(f"`{each}`" for each in names)
    return ""
