"""Why something is done, as people say it on the command line."""

from __future__ import annotations


def stated(reason: str) -> str:
    """The reason as it was given. Raises `ReasonMissing` when it says nothing."""
    from tiebreak.workflows.versions import ReasonMissing  # slow to import, and seldom needed

    if not reason.strip():
        raise ReasonMissing(hint="Say why with `--reason`.")
    return reason
