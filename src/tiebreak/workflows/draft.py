"""A workflow's files put together: every part that could be read, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from tiebreak.core.times import timestamp_reader
from tiebreak.core.workflow import (
    BandLabel,
    Calendar,
    Field,
    FieldType,
    RuleSet,
    Workflow,
)
from tiebreak.workflows.reading import Mistakes
from tiebreak.workflows.source import (
    Mapping,
    Node,
    Place,
    Sequence,
    descend,
)


class Example(BaseModel):
    """A ticket and the rules' verdict that is expected of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    as_of: str | None = None
    fields: dict[str, Any]
    history: dict[str, Any] = {}
    band: BandLabel
    rules: tuple[str, ...] | None = None


@dataclass
class Draft:
    """What a folder says. `workflow` and `rules` mean something only when there are no mistakes."""

    sections: Mapping
    workflow: Workflow
    rules: RuleSet
    examples: list[tuple[int, Example]]
    mistakes: Mistakes
    broken: set[str] = field(default_factory=set[str])  # names with a mistaken definition

    def node(self, *path: str | int) -> Node | None:
        """The node at this path, None where the files say nothing."""
        node: Node | None = self.sections
        for step in path:
            if isinstance(node, Mapping):
                node = node.entries.get(str(step))
            elif isinstance(node, Sequence) and isinstance(step, int):
                node = node.items[step] if step < len(node.items) else None
            else:
                return None
        return node

    def place(self, *path: str | int) -> Place:
        """The place of the value at this path, or of the nearest thing above it."""
        return descend(self.sections, path)

    def key_place(self, *path: str | int) -> Place:
        """The place of the last key of this path."""
        owner = self.node(*path[:-1])
        if isinstance(owner, Mapping) and str(path[-1]) in owner.keys:
            return owner.keys[str(path[-1])]
        return self.place(*path)


def read_moment(text: str, calendar: Calendar) -> datetime:
    """The moment that a day or a time means, in the calendar's zone where it names none.

    Raises `Unfit`.
    """
    zone = Field(
        name="moment",
        type=FieldType.TIMESTAMP,
        timezone=calendar.timezone,
        ambiguous="earliest",
        nonexistent="forward",
    )
    return timestamp_reader(zone)(f"{text}T00:00:00" if len(text) == 10 else text)
