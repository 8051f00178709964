"""Work in steps: it yields where whoever does it may look at something else."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]


def finished(steps: Steps[T]) -> T:
    """What comes of the work, all done at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
