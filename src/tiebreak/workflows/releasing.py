"""How the section `release` must fit together with the rest of the workflow."""

from __future__ import annotations

from itertools import pairwise

from tiebreak.core.release_plan import MOST_CANARY_PERCENT
from tiebreak.workflows.draft import Draft


def check_release(draft: Draft) -> None:
    """Add every mistake of the section to the draft."""
    plan = draft.workflow.release
    for place, (low, high) in enumerate(pairwise(plan.canary_steps), 1):
        if high.percent <= low.percent:
            where = draft.place("release", "canary_steps", place, "percent")
            message = "`percent` must rise from step to step"
            draft.mistakes.add(where, "release", message, f"more than {low.percent}")
    for place, step in enumerate(plan.canary_steps):
        if step.percent > MOST_CANARY_PERCENT:
            where = draft.place("release", "canary_steps", place, "percent")
            message = "a canary decides at most half of the tickets"
            draft.mistakes.add(where, "release", message, f"at most {MOST_CANARY_PERCENT}")
    if (plan.missed_cost is None) != (plan.needless_cost is None):
        given = "missed_cost" if plan.needless_cost is None else "needless_cost"
        message = "a cost is compared with the other: give `missed_cost` and `needless_cost`"
        draft.mistakes.add(draft.key_place("release", given), "release", message)
