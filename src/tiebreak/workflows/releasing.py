"""How the section `release` must fit together with the rest of the workflow."""

from __future__ import annotations

from itertools import pairwise

from tiebreak.core.suggestions import did_you_mean
from tiebreak.core.workflow import Field, FieldType
from tiebreak.workflows.draft import Draft

SLICED = (FieldType.CATEGORY, FieldType.BOOLEAN, FieldType.INTEGER, FieldType.TEXT)


def check_release(draft: Draft) -> None:
    """Add every mistake of the section to the draft."""
    plan = draft.workflow.release
    for place, (low, high) in enumerate(pairwise(plan.canary_steps), 1):
        if high.percent <= low.percent:
            where = draft.place("release", "canary_steps", place, "percent")
            message = "`percent` must rise from step to step"
            draft.mistakes.add(where, "release", message, f"more than {low.percent}")
    if (plan.missed_cost is None) != (plan.needless_cost is None):
        given = "missed_cost" if plan.needless_cost is None else "needless_cost"
        message = "a cost is compared with the other: give `missed_cost` and `needless_cost`"
        draft.mistakes.add(draft.key_place("release", given), "release", message)
    fields = {field.name: field for field in draft.workflow.fields}
    for place, name in enumerate(plan.slices):
        if name not in draft.broken:
            _slice(draft, place, name, fields)


def _slice(draft: Draft, place: int, name: str, fields: dict[str, Field]) -> None:
    where = draft.place("release", "slices", place)
    field = fields.get(name)
    if field is None:
        hint = did_you_mean(name, fields)
        draft.mistakes.add(where, "unknown_field", f"unknown field `{name}`", hint)
    elif field.after or field.pii or field.type not in SLICED:
        message = f"`{name}` is no field to tell tickets apart by"
        hint = "take a category, boolean, integer or text, not personal, not after the fact"
        draft.mistakes.add(where, "release", message, hint)
